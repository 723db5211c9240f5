"""Who reads which document: train, validation and test by a stable hash of its name."""

from __future__ import annotations

import hashlib

import numpy as np

from scratchpatch.errors import UserError

PARTS = ("train", "validation", "test")
SPLITS = (*PARTS, "all")
# Held-out shares (validation, test). The standard library is small, so it gives more.
STANDARD_SHARES = (0.05, 0.05)
SHARES = (0.025, 0.025)
CUT_SHARES = (0.05, 0.05)


def check(split: str) -> None:
    """Raise UserError unless `split` is one of SPLITS."""
    if split not in SPLITS:
        raise UserError(f"split {split!r} is unknown; it is one of {', '.join(SPLITS)}")


def name_hash(name: str) -> int:
    """64 bits of a document's name, the same on every machine and Python."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")


def assign(hashes: np.ndarray, sizes: np.ndarray, shares: tuple[float, float]) -> np.ndarray:
    """Index into PARTS of every document.

    A part that the hash leaves without bytes takes one document from another,
    train before validation before test, as far as there are documents.

    Args:
        hashes: uint64 [documents].
        sizes: int64 [documents], bytes.
        shares: of validation and test.

    Returns:
        int8 [documents].
    """
    unit = hashes / 2.0**64
    parts = np.where(unit < shares[0], 1, np.where(unit < shares[0] + shares[1], 2, 0)).astype(np.int8)
    for part in range(len(PARTS)):
        filled = [np.flatnonzero((parts == p) & (sizes > 0)) for p in range(len(PARTS))]
        if len(filled[part]):
            continue
        # An earlier part keeps its last document; a later one gives even that.
        givers = [p for p in range(len(PARTS)) if len(filled[p]) > (1 if p < part else 0)]
        if givers:
            giver = filled[max(givers, key=lambda p: len(filled[p]))]
            parts[giver[np.argmin(hashes[giver])]] = part
    return parts


def cut(size: int) -> list[tuple[int, int]]:
    """[start, end) bytes of train, validation and test in the only document of a source."""
    validation, test = (max(int(size * share), 1) if size >= len(PARTS) else 0 for share in CUT_SHARES)
    train = size - validation - test
    return [(0, train), (train, train + validation), (train + validation, size)]
