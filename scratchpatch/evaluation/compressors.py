"""General compressors on the same bytes, for scale."""

import bz2
import lzma
import zlib
from collections.abc import Iterable

# What they read where nobody says how much: of a longer text its beginning, since xz takes a second for two megabytes.
BYTES = 1 << 24
# Makes zlib write a gzip file, with the largest window.
_GZIP = 16 + zlib.MAX_WBITS


def bits_per_byte(chunks: Iterable[bytes]) -> tuple[dict[str, float | None], int]:
    """Bits per byte of gzip -9, bzip2 -9 and xz -9e over the chunks as one file (None of no bytes), and its bytes.

    The chunks are compressed as they come, so memory is the compressors' own: xz looks back up to 64 MiB and takes ten
    times of that.
    """
    compressors = {
        "gzip": zlib.compressobj(9, zlib.DEFLATED, _GZIP),
        "bzip2": bz2.BZ2Compressor(9),
        "xz": lzma.LZMACompressor(preset=9 | lzma.PRESET_EXTREME),
    }
    sizes, read = dict.fromkeys(compressors, 0), 0
    for chunk in chunks:
        read += len(chunk)
        for name, compressor in compressors.items():
            sizes[name] += len(compressor.compress(chunk))
    for name, compressor in compressors.items():
        sizes[name] += len(compressor.flush())
    return {name: 8 * size / read if read else None for name, size in sizes.items()}, read
