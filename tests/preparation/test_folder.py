"""Prepared folders: what they hold, that nothing but content decides it, and that a kill costs nothing."""

import fcntl
import json
import os
import resource
import signal
import time
from collections import Counter
from pathlib import Path

import fsspec
import numpy as np
import pytest

from scratchpatch import cli
from scratchpatch.data import prepared, splits
from scratchpatch.data.index import open_stream
from scratchpatch.data.shards import file_sizes
from scratchpatch.errors import UserError
from scratchpatch.preparation import shards, tasks
from scratchpatch.preparation.folder import prepare
from tests import child
from tests.preparation.conftest import contents

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def folder(spec, tmp_path_factory):
    """(path, what `prepare` said) of a folder with three shards, a fifth of it held out."""
    path = tmp_path_factory.mktemp("folder") / "prepared"
    return path, prepare(spec, str(path), 3, 0.1)


def documents_of(path, split, cache) -> list[bytes]:
    return list(open_stream(f"prepared:{path}", split, str(cache)).documents_iter())


def test_a_folder_holds_every_document_once_in_its_split_in_the_order_of_digests(folder, documents, tmp_path):
    path, said = folder
    distinct = sorted(set(documents), key=splits.digest)
    for split in SPLITS:
        wanted = [data for data in distinct if splits.split_of(splits.digest(data), 0.1) == split]
        assert documents_of(path, split, tmp_path) == wanted
        assert said["splits"][split] == {"documents": len(wanted), "bytes": sum(map(len, wanted))}
    assert Counter(documents_of(path, "all", tmp_path)) == Counter(distinct)
    assert (said["documents"], said["bytes"]) == (len(documents), sum(map(len, documents)))
    assert said["duplicates"] == len(documents) - len(distinct)
    assert said["duplicate_bytes"] == sum(map(len, documents)) - sum(map(len, distinct))
    assert not (path / ".preparing").exists()


def test_a_shard_is_its_documents_each_after_a_zero_in_files_of_the_sizes_that_meta_says(folder):
    path, _ = folder
    meta = prepared.read_meta(str(path))
    for split, entries in meta["splits"].items():
        data = b"".join((path / f"{entry['name']}.bin").read_bytes() for entry in entries)
        assert data == b"".join(b"\0" + document for document in documents_of(path, split, path.parent / "cache"))
        for entry in entries:
            for suffix, size in file_sizes(entry).items():
                assert (path / (entry["name"] + suffix)).stat().st_size == size


@pytest.mark.parametrize("workers", [1, 2])
def test_the_files_are_the_same_for_any_tasks_runs_and_workers(folder, spec, small, tmp_path, workers):
    path, said = folder
    assert prepare(spec, str(tmp_path / "other"), 3, 0.1, workers=workers) == said | {"out": str(tmp_path / "other")}
    assert contents(tmp_path / "other") == contents(path)


@pytest.mark.parametrize("count", [1, 7, 40])
def test_the_stream_is_the_same_for_any_number_of_shards(folder, spec, tmp_path, count):
    path, _ = folder
    prepare(spec, str(tmp_path / "other"), count, 0.1)
    for split in (*SPLITS, "all"):
        a, b = (open_stream(f"prepared:{p}", split, str(tmp_path)) for p in (path, tmp_path / "other"))
        assert (len(a), a.documents, a.checksum, a.key()) == (len(b), b.documents, b.checksum, b.key())
        np.testing.assert_array_equal(a.read(0, len(a)), b.read(0, len(b)))
        np.testing.assert_array_equal(a.read_windows(np.arange(a.windows(100)), 100), b.read_windows(np.arange(a.windows(100)), 100))


def test_a_folder_is_itself_a_source(folder, tmp_path):
    path, said = folder
    again = prepare(f"prepared:{path}", str(tmp_path / "again"), 3, 0.1)
    assert again["splits"] == said["splits"] and again["duplicates"] == 0
    for file in path.glob("*-of-*"):
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()
    with pytest.raises(UserError, match="holds no meta.json"):
        prepare(f"prepared:{tmp_path}", str(tmp_path / "none"))


def test_other_text_has_another_checksum(folder, tmp_path):
    path, _ = folder
    kept = [data for data in documents_of(path, "all", tmp_path) if data][1:]
    for number, data in enumerate(kept):
        (tmp_path / f"{number}.txt").write_bytes(data)
    prepare(f"text:{tmp_path}/*.txt", str(tmp_path / "other"), 3, 0.1)
    streams = [open_stream(f"prepared:{p}", "all", str(tmp_path)) for p in (path, tmp_path / "other")]
    assert streams[0].checksum != streams[1].checksum


KILLS = [("run", 2), ("run", 3), ("shard", 2), ("publish", 3), ("meta", 1)]


def test_a_preparation_killed_at_any_moment_goes_on(folder, spec, tmp_path):
    out, log = tmp_path / "killed", tmp_path / "log"
    argv = ["prepare", f"--source={spec}", f"--out={out}", "--shards=3", "--held_out=0.1", "--workers=1"]
    summaries = []
    for moment in KILLS:
        assert child.run(argv, log, moment) == -signal.SIGKILL, (moment, log.read_text())
        assert not (out / "meta.json").exists() or moment[0] == "meta"
        stamps = {path: path.stat().st_mtime_ns for path in sorted((out / ".preparing").glob("shards/*.json"))}
        # What was finished by an attempt is not touched by the next ones.
        assert not summaries or summaries[-1].items() <= stamps.items()
        summaries.append(stamps)
    assert [len(stamps) for stamps in summaries] == [0, 0, 1, 1, 3]
    assert child.run(argv, log) == 0, log.read_text()
    assert contents(out) == contents(folder[0])


def test_a_finished_folder_is_verified_and_kept(folder, spec, tmp_path, monkeypatch):
    path, said = folder
    monkeypatch.setattr(shards, "write", lambda *_: pytest.fail("written again"))
    monkeypatch.setattr(tasks, "run", lambda *_: pytest.fail("read again"))
    assert prepare(spec, str(path), 3, 0.1) == said


@pytest.mark.parametrize("suffix", ["bin", "starts"])
def test_damage_is_named(spec, tmp_path, suffix):
    out = tmp_path / "out"
    prepare(spec, str(out), 2, 0.1)
    path = out / f"train-00001-of-00002.{suffix}"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=f"the checksum of .*{path.name} is wrong"):
        prepare(spec, str(out), 2, 0.1)
    path.write_bytes(data[:-1])
    for act in (lambda: open_stream(f"prepared:{out}", "train"), lambda: prepare(spec, str(out), 2, 0.1)):
        with pytest.raises(UserError, match=f"{path.name} holds {len(data) - 1} bytes instead of {len(data)}"):
            act()
    path.unlink()
    with pytest.raises(UserError, match=f"{path.name} is missing: prepare the folder anew"):
        open_stream(f"prepared:{out}", "train")


def fail(*_):
    raise OSError(28, "No space left on device")


@pytest.fixture
def stopped(spec, tmp_path, monkeypatch):
    """The state of a preparation whose documents are read, and whose first shard is written."""
    write = shards.write
    with monkeypatch.context() as patch:
        patch.setattr(shards, "write", lambda made, shard, found: write(made, shard, found) if shard < 1 else fail())
        with pytest.raises(UserError, match="No space left"):
            prepare(spec, str(tmp_path / "out"), 3, 0.1)
    return tmp_path / "out/.preparing"


@pytest.mark.parametrize("file", ["plan.json", "tasks/00000/task.json", "shards/00000.json"])
def test_a_state_that_lies_is_named(spec, tmp_path, stopped, file):
    for text in ("null", "[]", "{", "[" * 5000, '{"documents": "3", "plan": 3, "train": []}'):
        (stopped / file).write_text(text)
        with pytest.raises(UserError, match=f"{stopped}/{file}: .*; remove {stopped} and run the same command again") as caught:
            prepare(spec, str(tmp_path / "out"), 3, 0.1)
        assert "\n" not in str(caught.value)


def test_a_summary_that_leads_elsewhere_is_named(spec, tmp_path, stopped):
    path = stopped / "shards/00000.json"
    path.write_text(path.read_text().replace("train-00000-of-00003", "../../x"))
    with pytest.raises(UserError, match="00000.json: .*name: Expected str matching regex .*; remove"):
        prepare(spec, str(tmp_path / "out"), 3, 0.1)
    assert not (tmp_path / "out/meta.json").exists()


def test_damage_of_what_was_read_is_found(spec, tmp_path, stopped):
    path = stopped / "tasks/00000/0.data"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(UserError, match=f"what was read into {stopped}/tasks is damaged: remove {stopped} and run"):
        prepare(spec, str(tmp_path / "out"), 3, 0.1)


def test_what_a_killed_attempt_was_writing_is_removed(folder, spec, tmp_path, stopped):
    (stopped / "tasks/.00001-x").mkdir()
    (stopped / "shard-x").mkdir()
    for path in (stopped / "shards/00001.json.x.tmp", stopped / "plan.json.x.tmp", tmp_path / "out/meta.json.x.tmp"):
        path.write_text("")
    prepare(spec, str(tmp_path / "out"), 3, 0.1)
    assert contents(tmp_path / "out") == contents(folder[0])


def test_work_of_a_folder_behind_a_url_is_kept_for_a_month(spec, tmp_path, monkeypatch):
    monkeypatch.setenv("SCRATCHPATCH_CACHE", str(tmp_path / "cache"))
    for name in ("old", "held", "young"):
        folder = tmp_path / "cache/prepare" / name
        (folder / "tasks").mkdir(parents=True)
        (folder / "lock").write_text("")
        for path in (folder / "lock", folder / "tasks", folder) if name != "young" else ():
            os.utime(path, (time.time() - 40 * 86_400,) * 2)
    with open(tmp_path / "cache/prepare/held/lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        prepare(spec, f"memory://{tmp_path}/out", 1)
    assert sorted(path.name for path in (tmp_path / "cache/prepare").iterdir()) == ["held", "young"]


def test_a_shard_that_cannot_be_written_is_named(spec, tmp_path):
    """As on a full disk: no file of this process may grow beyond 100 kB."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write .*/out \(.*File too large.*\); free space there") as caught:
            prepare(spec, str(tmp_path / "out"), 3, 0.1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value) and not list((tmp_path / "out/.preparing").glob("shard-*"))


def test_a_record_that_holds_too_much_is_named_skipped_or_allowed(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": "%s"}\n' % ("b" * 500))
    spec = f"jsonl:{tmp_path}/a.jsonl"
    with pytest.raises(UserError, match=r"a.jsonl:2: is longer, data.record_bytes = 100 .*\(prepare: --record_bytes\)"):
        prepare(spec, str(tmp_path / "out"), record_bytes=100)
    said = prepare(spec, str(tmp_path / "skipped"), on_bad_record="skip", record_bytes=100)
    assert (said["documents"], said["skipped"]) == (1, 1)
    with pytest.raises(UserError, match="holds another preparation: record_bytes: 100 -> 67108864"):
        prepare(spec, str(tmp_path / "skipped"), on_bad_record="skip")
    assert prepare(spec, str(tmp_path / "whole"))["documents"] == 2


def test_a_folder_of_another_preparation_is_refused(folder, spec):
    with pytest.raises(UserError, match="holds another preparation: shards: 3 -> 4; held_out: 0.1 -> 0.2; use another --out"):
        prepare(spec, str(folder[0]), 4, 0.2)


def test_a_preparation_that_was_begun_otherwise_is_refused(spec, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shards, "write", fail)
        with pytest.raises(UserError, match="cannot write .*No space left on device.*; free space there"):
            prepare(spec, str(tmp_path / "out"), 3)
    with pytest.raises(UserError, match="holds another preparation: shards: 3 -> 2"):
        prepare(spec, str(tmp_path / "out"), 2)
    assert prepare(spec, str(tmp_path / "out"), 3)["shards"] == 3


def test_bad_records_stop_or_are_counted(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n?\n{"body": "b"}\n{"text": "c"}\n')
    spec, out = f"jsonl:{tmp_path}/a.jsonl", str(tmp_path / "out")
    for workers in (1, 2):
        with pytest.raises(UserError, match="a.jsonl:2: not JSON.*on_bad_record=skip"):
            prepare(spec, out, 2, 0.0, workers=workers)
    said = prepare(spec, str(tmp_path / "skipped"), 2, 0.0, "skip")
    assert (said["documents"], said["skipped"]) == (2, 2)
    assert open_stream(f"prepared:{tmp_path}/skipped", "train").skipped == 2
    assert len(json.loads((tmp_path / "skipped/meta.json").read_text())["bad"]) == 2


def test_what_has_no_bytes_is_an_error(tmp_path, folder):
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(UserError, match=r"the source is empty, its 1 file\(s\) hold no bytes"):
        prepare(f"text:{tmp_path}/a.txt", str(tmp_path / "out"))
    (tmp_path / "a.txt").write_text("x")
    prepare(f"text:{tmp_path}/a.txt", str(tmp_path / "one"), 4, 0.0)
    with pytest.raises(UserError, match="the validation split is empty, .* 1 document.* larger --held_out"):
        open_stream(f"prepared:{tmp_path}/one", "validation")
    with pytest.raises(UserError, match="holds no meta.json: run scratchpatch prepare --source=SPEC --out="):
        open_stream(f"prepared:{tmp_path}", "train")


class Bucket(fsspec.get_filesystem_class("memory")):
    """As gs:// and s3:// are: a folder is there as long as files are in it."""

    protocol = "bucket"
    store, pseudo_dirs = {}, [""]

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("bucket://"))

    def makedirs(self, path, exist_ok=False):
        pass


fsspec.register_implementation("bucket", Bucket, clobber=True)


@pytest.mark.parametrize("protocol", ["memory", "file", "bucket"])
def test_a_folder_behind_a_url(folder, spec, tmp_path, monkeypatch, protocol):
    """Written, gone on with, verified and read through fsspec; the same bytes."""
    monkeypatch.setenv("SCRATCHPATCH_CACHE", str(tmp_path / "cache"))
    url, files = f"{protocol}://{tmp_path}/out", fsspec.filesystem(protocol)
    with monkeypatch.context() as patch:
        write = shards.write
        patch.setattr(shards, "write", lambda made, shard, found: write(made, shard, found) if shard < 2 else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(spec, url, 3, 0.1)
    said = prepare(spec, url, 3, 0.1)
    assert said["splits"] == folder[1]["splits"] == prepare(spec, url, 3, 0.1)["splits"]
    found = {path.rpartition("/")[2]: files.cat_file(path) for path in files.find(f"{tmp_path}/out")}
    assert found == contents(folder[0])
    assert not list((tmp_path / "cache" / "prepare").iterdir())
    here, there = (open_stream(f"prepared:{p}", "train", str(tmp_path / "cache")) for p in (folder[0], url))
    windows = np.random.default_rng(0).integers(0, here.windows(1000), 50)
    np.testing.assert_array_equal(there.read_windows(windows, 1000), here.read_windows(windows, 1000))
    assert list(there.documents_iter()) == list(here.documents_iter()) and there.key() == here.key()


def test_the_verb_says_what_it_did(spec, tmp_path, capsys):
    argv = ["prepare", f"--source={spec}", f"--out={tmp_path}/out", "--shards=2", "--workers=1"]
    assert cli.main([*argv, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["out"] == f"{tmp_path}/out" and said["shards"] == 2 and said["duplicates"] > 0
    assert cli.main(argv) == 0
    out, err = capsys.readouterr()
    assert f"{said['documents']:,} documents" in out and f"{said['duplicates']:,} duplicates" in out
    assert f"  train: {said['splits']['train']['documents']:,} documents" in out
    for wrong, words in (
        ("--held_out=0.5", "wanted a share from 0 to 0.4"),
        ("--runner_flag=a=b", "is for a runner of Beam"),
        ("--shards=0", "shards"),
        ("--source=nothing:x", "no known scheme"),
    ):
        assert cli.main([*argv, wrong]) == 2
        assert words in capsys.readouterr().err
    assert cli.main(["prepare", f"--out={tmp_path}/out"]) == 2
    assert "prepare needs --source=SPEC" in capsys.readouterr().err


def test_the_working_directory_is_understood(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert prepare(spec, "here", 1)["out"] == str(tmp_path / "here")
    assert open_stream("prepared:./here", "train", "cache").documents
    assert Path("here/meta.json").exists()
