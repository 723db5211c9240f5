"""Byte-level language models with Scratchpad Patching."""

import importlib
import importlib.metadata

from scratchpatch import platforms
from scratchpatch.errors import UserError

try:
    __version__ = importlib.metadata.version("scratchpatch")
except importlib.metadata.PackageNotFoundError:
    __version__ = "0+uninstalled"

platforms.choose()

# Name to the module that holds it.
_PUBLIC = {
    "LanguageModel": "inference.language_model", "Segmentation": "inference.language_model", "export": "interop.export",
    "init": "inference.loading", "load": "inference.loading", "load_hf_blt": "inference.loading",
}
__all__ = ["UserError", "__version__", *_PUBLIC]


def __getattr__(name: str):
    # Loaded on first use: the command line answers --help without importing JAX.
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"scratchpatch.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
