"""Files of one JSON object on each line."""

import gzip

import pytest

from scratchpatch.errors import UserError
from scratchpatch.tasks import json_lines


def test_lines_are_numbered_and_blank_ones_passed_over(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n\n{"b": 2}'))
    assert list(json_lines.read(str(path))) == [(1, {"a": 1}), (3, {"b": 2})]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty: wanted one JSON object"),
        (b"\n \n", "is empty"),
        (b'{"a": 1}\n{"a"\n', "line 2: it is no JSON"),
        (b"[1]\n", "line 1: Expected object, got array"),
        (gzip.compress(b'{"a": 1}\n' * 9, mtime=0)[:-9], "not a whole compressed file"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path, data, said):
    path = tmp_path / "a.jsonl"
    path.write_bytes(data)
    with pytest.raises(UserError, match=said):
        list(json_lines.read(str(path)))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        list(json_lines.read(str(tmp_path / "none")))
