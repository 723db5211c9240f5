"""Who reads which document: train, validation and test, by a keyed hash of its bytes.

No document moves another, and equal documents have one split. A source of few documents may hold out none;
`least_share` then says which share would.
"""

import hashlib
import math

import numpy as np

from scratchpatch.errors import UserError

SPLITS = ("train", "validation", "test")
CHOICES = (*SPLITS, "all")
# Share of the documents that validate, and that test: where nobody says otherwise, and at most.
SHARE, LARGEST_SHARE = 0.025, 0.4
# The standard library is small, so it gives more.
STANDARD_SHARE = 0.05
CUT_SHARE = 0.05
_KEY = b"scratchpatch.documents"
_HALF = 2.0**64


def check(split: str) -> None:
    """Raise UserError unless `split` is one of CHOICES."""
    if split not in CHOICES:
        raise UserError(f"split {split!r} is unknown; it is one of {', '.join(CHOICES)}")


def digest(data: bytes) -> bytes:
    """The keyed hash of a document, 16 bytes: documents of one digest are one document."""
    return hasher(data).digest()


def hasher(data: bytes = b"") -> hashlib.blake2b:
    """The hasher of `digest`, for a document that comes in pieces."""
    return hashlib.blake2b(data, digest_size=16, key=_KEY)


def place(digest: bytes) -> int:
    """What decides a document's split: the second half of its digest, 64 bits (the first half orders shards)."""
    return int.from_bytes(digest[8:], "big")


def name_place(name: str) -> int:
    """The place of a document that is dealt by its name, the same on every machine and Python."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")


def split_of(place: int, share: float) -> str:
    """The split of the document that has this `place`, where a share of the documents validate; as many test."""
    unit = place / _HALF
    return SPLITS[1 if unit < share else 2 if unit < 2 * share else 0]


def least_share(places: np.ndarray) -> float | None:
    """The least share, in steps of 0.001, by which some document validates and some trains; None where there is none.
    `places` is uint64 [documents], of those that have bytes.
    """
    if not len(places):
        return None
    least, most = places.min() / _HALF, places.max() / _HALF
    share = (math.floor(least * 1000) + 1) / 1000
    return share if share <= LARGEST_SHARE and most >= 2 * share else None


def cut(size: int) -> list[tuple[int, int]]:
    """[start, end) bytes of train, validation and test in the only document of a source."""
    held_out = max(int(size * CUT_SHARE), 1) if size >= len(SPLITS) else 0
    edges = [0, size - 2 * held_out, size - held_out, size]
    return list(zip(edges, edges[1:], strict=False))
