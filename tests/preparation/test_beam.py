"""The pipeline of Apache Beam: its functions here, itself where Beam is installed."""

import importlib.util
import json
import random

import pytest

from scratchpatch.data import sources
from scratchpatch.errors import UserError
from scratchpatch.preparation import beam, plan, shards
from scratchpatch.preparation.folder import prepare
from tests.preparation.conftest import contents

without = importlib.util.find_spec("apache_beam") is None


@pytest.fixture(scope="module")
def folder(spec, tmp_path_factory):
    path = tmp_path_factory.mktemp("folder") / "prepared"
    return path, prepare(spec, str(path), 3, 0.1)


def test_its_functions_write_the_same_shards_from_documents_in_any_order(folder, spec, small, tmp_path):
    made = plan.make(sources.parse(spec), str(tmp_path / "out"), 3, 0.1, "error")
    for name in ("shards", "counts"):
        (tmp_path / "out" / shards.STATE / name).mkdir(parents=True)
    groups = {shard: [] for shard in range(3)}
    for task in enumerate(made.tasks()):
        for shard, document in beam.read(task, made.without_files(), frozenset([0, 2])):
            groups[shard].append(document)
    assert not groups.pop(1)
    for shard, own in groups.items():
        assert len({digest for digest, _ in own}) < len(own)  # duplicates in several files
        random.Random(0).shuffle(own)
        beam.write((shard, iter(own)), made.without_files())
    wanted = {name: data for name, data in contents(folder[0]).items() if "-00000-of" in name or "-00002-of" in name}
    out = tmp_path / "out"
    assert {path.name: path.read_bytes() for path in sorted(out.glob("*-of-*"))} == wanted
    counts = [json.loads(path.read_text()) for path in sorted((out / shards.STATE / "counts").iterdir())]
    assert len(counts) == 5 and sum(count["documents"] for count in counts) == folder[1]["documents"]


def test_errors_are_told_without_the_stages_around_them():
    lines = ["Traceback ...", "  File x", "scratchpatch.errors.UserError: a.jsonl:2: no [while running 'documents']"]
    error = RuntimeError("\n".join(lines) + "\n")
    assert beam._reason(error) == "a.jsonl:2: no"
    try:
        raise RuntimeError("outer") from ValueError("inner\nmore")
    except RuntimeError as outer:
        assert beam._reason(outer) == "inner"


@pytest.mark.skipif(not without, reason="apache-beam is installed here: the tests below run it")
def test_without_beam_its_extra_is_named(spec, tmp_path):
    with pytest.raises(UserError, match=r"--runner=DirectRunner needs the package apache_beam.*scratchpatch\[beam\]"):
        prepare(spec, str(tmp_path / "out"), 3, runner="DirectRunner")


needs_beam = pytest.mark.skipif(
    without,
    reason="apache-beam not installed: an environment by constraints.beam.txt runs the pipeline on its DirectRunner",
)


@needs_beam
@pytest.mark.parametrize("flags", [(), ("direct_num_workers=2", "direct_running_mode=multi_processing")])
def test_the_direct_runner_writes_the_same_bytes(folder, spec, small, tmp_path, flags):
    out = tmp_path / "out"
    said = prepare(spec, str(out), 3, 0.1, runner="DirectRunner", runner_flags=flags)
    assert said == folder[1] | {"out": str(out)}
    assert contents(out) == contents(folder[0])


@needs_beam
def test_a_shard_that_is_finished_is_not_written_again_and_an_empty_one_is_none(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("one document")
    spec, out = f"text:{tmp_path}/a.txt", str(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr("scratchpatch.preparation.folder._meta", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(spec, out, 5, 0.0, runner="DirectRunner")
    monkeypatch.setattr(shards, "write", lambda *_: pytest.fail("written again"))
    assert prepare(spec, out, 5, 0.0, runner="DirectRunner")["splits"]["train"] == {"documents": 1, "bytes": 12}


@needs_beam
def test_a_bad_record_and_an_unknown_runner_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_text("?\n")
    says = r"pipeline on DirectRunner failed: .*a\.jsonl:1: not JSON.*on_bad_record=skip$"
    with pytest.raises(UserError, match=says):
        prepare(f"jsonl:{tmp_path}/a.jsonl", str(tmp_path / "out"), runner="DirectRunner")
    with pytest.raises(UserError, match="Unexpected pipeline runner: NoRunner"):
        prepare(f"jsonl:{tmp_path}/a.jsonl", str(tmp_path / "out"), runner="NoRunner")
