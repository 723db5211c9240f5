"""General compressors on the same bytes, for scale."""

import bz2
import gzip
import lzma
from collections.abc import Iterable


def bits_per_byte(chunks: Iterable[bytes]) -> dict[str, float | None]:
    """Bits per byte of gzip -9, bzip2 -9 and xz -9e over the chunks as one file; None of no bytes."""
    data = b"".join(chunks)
    if not data:
        return {"gzip": None, "bzip2": None, "xz": None}
    sizes = {
        "gzip": len(gzip.compress(data, 9, mtime=0)),
        "bzip2": len(bz2.compress(data, 9)),
        "xz": len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)),
    }
    return {name: 8 * size / len(data) for name, size in sizes.items()}
