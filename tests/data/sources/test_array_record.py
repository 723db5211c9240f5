"""A record of an ArrayRecord file is a document, byte for byte."""

import numpy as np
import pytest

from scratchpatch.errors import UserError
from tests.data.sources.reading import blank_the_middle, read, texts, write_records


def test_a_record_is_a_document_byte_for_byte(tmp_path, awkward):
    write_records(tmp_path / "a.array_record", awkward * 30)
    assert texts(f"array_record:{tmp_path}/*.array_record") == awkward * 30
    assert read(f"array_record:{tmp_path}/a.array_record")[0][0] == ("a.array_record#1", awkward[0])


def test_a_damaged_file_is_named_or_skipped(tmp_path):
    path = tmp_path / "a.array_record"
    path.write_bytes(b"not an ArrayRecord" * 5000)
    with pytest.raises(UserError, match=r"a\.array_record:1: not a whole ArrayRecord file"):
        texts(f"array_record:{path}")
    documents, bad = read(f"array_record:{path}", "skip")
    assert documents == [] and bad.count == 1


def test_the_records_after_damage_are_counted(tmp_path):
    path = tmp_path / "a.array_record"
    write_records(path, [np.random.default_rng(i).bytes(500) for i in range(1000)])
    blank_the_middle(path, 5000)
    documents, bad = read(f"array_record:{path}", "skip")
    assert 0 < len(documents) < 1000 and len(documents) + bad.count == 1000 and bad.broken == 0


def test_a_record_that_holds_too_much_is_named_or_skipped(tmp_path):
    write_records(tmp_path / "a.array_record", [b"a", b"b" * 50, b"c"])
    documents, bad = read(f"array_record:{tmp_path}/a.array_record", "skip", record_bytes=49)
    assert [data for _, data in documents] == [b"a", b"c"] and bad.count == 1
    assert ":2: holds 50 bytes, data.record_bytes = 49 allows no more than that: raise it" in bad.messages[0]
