"""The file of results: rows in any order, stops at any moment, and what it was made of."""

import fcntl
import json
import os

import pytest

from scratchpatch.errors import UserError
from scratchpatch.inference import results
from scratchpatch.inference.results import Results

MADE_OF = {"step": "7", "temperature": "0.5"}


def row(number):
    return number, {"text": f"row {number} é\n", "bytes": number}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_that_come_in_any_order_are_written_in_order(tmp_path):
    out = tmp_path / "out.jsonl"
    assert not results.finished(out, MADE_OF)
    with Results(out, MADE_OF) as rows:
        rows.add([row(3), row(1)])
        rows.add([])
        rows.add([row(2)])
        assert rows.done == {1, 2, 3} and not out.exists()
        rows.finish()
    assert lines(out) == [row(number)[1] for number in (1, 2, 3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out.jsonl.about.json"]
    assert results.finished(out, MADE_OF)


def test_what_was_added_is_there_after_a_stop_at_any_byte(tmp_path):
    out, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    with Results(out, MADE_OF) as rows:
        rows.add([row(2), row(1)])
    whole = partial.read_bytes()
    ends = [len(b"".join(whole.splitlines(keepends=True)[:k])) for k in (1, 2, 3)]
    for size in range(len(whole) + 1):
        partial.write_bytes(whole[:size])
        with Results(out, MADE_OF) as rows:
            assert rows.done == set([2, 1][: sum(size >= end for end in ends[1:])])
            rows.add([row(number) for number in (1, 2, 3) if number not in rows.done])
        with Results(out, MADE_OF) as rows:
            assert rows.done == {1, 2, 3}
            rows.finish()
        assert lines(out) == [row(number)[1] for number in (1, 2, 3)]


def test_a_stop_while_it_is_finished_costs_nothing(tmp_path, monkeypatch):
    out = tmp_path / "out.jsonl"

    def stopped(*_):
        raise KeyboardInterrupt

    for name in ("replace_text", "replacing"):
        with monkeypatch.context() as patch, Results(out, MADE_OF) as rows:
            rows.add([row(1)] if not rows.done else [])
            patch.setattr(results.files, name, stopped)
            with pytest.raises(KeyboardInterrupt):
                rows.finish()
        # OUT may be there, and counts as unfinished.
        assert not results.finished(out, MADE_OF)
    with Results(out, MADE_OF) as rows:
        rows.finish()
    assert results.finished(out, MADE_OF) and lines(out) == [row(1)[1]]


def test_other_things_are_named_and_refused(tmp_path):
    out, other = tmp_path / "out.jsonl", MADE_OF | {"temperature": "0.8"}
    words = r"was made with temperature = 0.5, not 0.8: name another --out, or remove it"
    with Results(out, MADE_OF) as rows:
        rows.add([row(1)])
    with pytest.raises(UserError, match=f"out.jsonl.partial {words}"):
        Results(out, other)
    with Results(out, MADE_OF) as rows:
        rows.finish()
    with pytest.raises(UserError, match=f"out.jsonl {words}"):
        results.finished(out, other)
    assert results.finished(out, MADE_OF)


def test_files_of_others_are_left_alone(tmp_path):
    out, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    out.write_text("mine")
    with pytest.raises(UserError, match="exists, and is no file of results that generate has finished"):
        results.finished(out, MADE_OF)
    (tmp_path / "out.jsonl.about.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be compared"):
        results.finished(out, MADE_OF)
    for text in ("mine", "mine\n", '{"made_of": 3}\n'):
        partial.write_text(text)
        with pytest.raises(UserError, match="partial, line 1 is damaged"):
            Results(out, MADE_OF)
        assert partial.read_text() == text
    partial.unlink()
    partial.mkdir()
    with pytest.raises(UserError, match="is no file"):
        Results(out, MADE_OF)
    assert out.read_text() == "mine"


def test_a_changed_file_is_named(tmp_path):
    out = tmp_path / "out.jsonl"
    with Results(out, MADE_OF) as rows:
        rows.add([row(1)])
        rows.finish()
    out.write_text("{}\n")
    with pytest.raises(UserError, match="was changed since generate wrote it"):
        results.finished(out, MADE_OF)


def test_a_damaged_row_is_named(tmp_path):
    out, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    with Results(out, MADE_OF) as rows:
        rows.add([row(1), row(2)])
    partial.write_bytes(partial.read_bytes().replace(b'"number": 1', b'"number": x'))
    with pytest.raises(UserError, match=r"out.jsonl.partial, line 2 is damaged \(it is no JSON.*remove it"):
        Results(out, MADE_OF)


def test_a_second_writer_is_refused(tmp_path):
    out = tmp_path / "out.jsonl"
    with Results(out, MADE_OF):
        with pytest.raises(UserError, match="is being written by another process"):
            Results(out, MADE_OF)
    with Results(out, MADE_OF):
        pass


def test_a_writer_that_comes_when_the_file_is_finished_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda file, _: os.unlink(tmp_path / "out.jsonl.partial"))
    with pytest.raises(UserError, match="another process has just finished"):
        Results(tmp_path / "out.jsonl", MADE_OF)


def test_a_full_disk_is_named(tmp_path):
    class Full:
        def write(self, _):
            raise OSError(28, "No space left on device")

        def close(self):
            pass

    with Results(tmp_path / "out.jsonl", MADE_OF) as rows:
        rows._file.close()
        rows._file = Full()
        with pytest.raises(OSError) as caught:
            rows.add([row(1)])
    assert caught.value.filename == str(tmp_path / "out.jsonl.partial") and rows.done == set()
