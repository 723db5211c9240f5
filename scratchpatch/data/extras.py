"""Packages that only some sources, and the verb `serve`, need."""

import importlib
from types import ModuleType

from scratchpatch.errors import UserError


def need(module: str, extra: str, what: str) -> ModuleType:
    """The imported module. Raises UserError that names the extra where its package is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{what} needs the package {module.partition('.')[0]}, which is not installed ({error}): "
            f"pip install 'scratchpatch[{extra}]', or bash launch/setup.sh {extra}"
        ) from error
