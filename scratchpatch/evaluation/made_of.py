"""What a number is made of beside config, weights and text, so that it can be told whether it would come out again."""

import hashlib
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

import scratchpatch

_PACKAGES = ("jax", "jaxlib", "flax")


def program() -> dict[str, Any]:
    """Checksum of this package's code, versions of the packages that compute, and the kind of device."""
    return {
        "code": _code(),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
        "platform": jax.default_backend(),
    }


def _code() -> str:
    """A checksum of this package's modules: its version stays the same while someone works on it."""
    folder, digest = Path(scratchpatch.__file__).parent, hashlib.blake2b(digest_size=16)
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    return digest.hexdigest()
