"""Byte-level language models with Scratchpad Patching."""

import importlib.metadata

from scratchpatch.errors import UserError

try:
    __version__ = importlib.metadata.version("scratchpatch")
except importlib.metadata.PackageNotFoundError:
    __version__ = "0+uninstalled"

_PUBLIC = ("LanguageModel", "Segmentation", "init", "load")
__all__ = ["UserError", "__version__", *_PUBLIC]


def __getattr__(name: str):
    # Loaded on first use: the command line answers --help without importing JAX.
    if name in _PUBLIC:
        from scratchpatch.inference import language_model

        return getattr(language_model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
