import bz2
import gzip
import lzma

import pytest

from scratchpatch.evaluation import compressors

TEXT = b"the cat sat on the mat; the dog sat on the log. " * 40


def test_bits_per_byte_are_those_of_the_compressors():
    bits, size = compressors.bits_per_byte([TEXT])
    assert size == len(TEXT)
    assert bits == {
        "gzip": 8 * len(gzip.compress(TEXT, 9, mtime=0)) / len(TEXT),
        "bzip2": 8 * len(bz2.compress(TEXT, 9)) / len(TEXT),
        "xz": 8 * len(lzma.compress(TEXT, preset=9 | lzma.PRESET_EXTREME)) / len(TEXT),
    }
    assert all(0 < each < 1 for each in bits.values())


def test_chunks_are_one_file():
    chunks = (TEXT[i : i + 100] for i in range(0, len(TEXT), 100))
    assert compressors.bits_per_byte(chunks) == compressors.bits_per_byte([TEXT])


def test_a_byte_costs_at_least_its_header():
    # gzip: 10 bytes of header, 8 of trailer, 3 of an empty-ended block with one literal.
    assert compressors.bits_per_byte([b"a"])[0]["gzip"] == 8 * 21


@pytest.mark.parametrize("chunks", ([], [b""], [b"", b""]))
def test_no_bytes_have_no_rate(chunks):
    assert compressors.bits_per_byte(chunks) == ({"gzip": None, "bzip2": None, "xz": None}, 0)
