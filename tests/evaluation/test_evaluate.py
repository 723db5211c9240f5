"""`evaluate` on a workdir: what it returns, and what it keeps for the report. Its weights are random."""

import base64
import contextlib
import errno
import json
import shutil

import jax
import numpy as np
import pytest

from scratchpatch import cli
from scratchpatch.checkpoints.writer import Checkpoints
from scratchpatch.data.mixture import streams_for
from scratchpatch.errors import UserError
from scratchpatch.evaluation import evaluate as verbs
from scratchpatch.evaluation.evaluate import evaluate
from scratchpatch.model import weights as weights_lib
from scratchpatch.report import page
from tests import runs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return runs.untrained(tmp_path_factory.mktemp("verbs"), {"trigger.kind": "stride", "trigger.stride": 2})


@pytest.fixture(scope="module")
def found(run):
    """The result on the run's own validation split, and what it kept."""
    result = evaluate(run[1])
    return result, json.loads((run[1] / "evaluation.json").read_text())


def test_the_runs_own_validation_split_is_the_default(run, found):
    config, _ = run
    ((stream, _),) = streams_for(config, "validation")
    result, _ = found
    assert result["bytes"] == stream.bytes and result["documents"] == stream.documents
    assert (result["source"], result["split"], result["overrides"]) == (config.data.sources[0][0], "validation", {})
    assert result["bpb"] == pytest.approx(8, abs=0.3) and result["step"] == 0
    # One inside each patch of four.
    assert result["scratchpads_per_byte"] == pytest.approx(0.25, abs=0.01)


def test_what_the_report_needs_is_kept(run, found):
    result, kept = found
    assert kept["step"] == 0 and kept["results"]["validation"]["bpb"] == result["bpb"]
    assert kept["account"]["parameters"]["total"] > 0
    plain = kept["results"]["without_scratchpads"]
    assert plain["scratchpads_per_byte"] == 0 and plain["bpb"] != result["bpb"]
    assert plain["commits_per_byte"] == result["commits_per_byte"]
    assert (run[1] / "report.html").read_text().lstrip().lower().startswith("<!doctype html")


def test_the_sweep_goes_from_no_scratchpad_to_one_at_every_byte(found):
    """After the model as trained come the thresholds, falling, on the same bytes."""
    result, kept = found
    trained, *sweep = kept["results"]["sweep"]
    assert trained["threshold"] is None and trained["bpb"] == pytest.approx(result["bpb"], rel=1e-6)
    thresholds = [at["threshold"] for at in sweep]
    assert len(sweep) == 8 and thresholds == sorted(thresholds, reverse=True)
    rates = [at["scratchpads_per_byte"] for at in sweep]
    assert rates == sorted(rates) and len(set(rates)) == len(rates)
    # The share of the text that each threshold was chosen for.
    np.testing.assert_allclose(rates[1:-1], (0.03, 0.06, 0.12, 0.2, 0.3, 0.5), atol=0.01)
    assert sweep[0]["bpb"] == pytest.approx(kept["results"]["without_scratchpads"]["bpb"], rel=1e-5)
    assert (rates[0], sweep[-1]["trunk_calls_per_byte"]) == (0, 1)
    costs = [at["flops_per_byte"] for at in sweep]
    assert costs == sorted(costs) and costs[0] < costs[-1]


def test_the_passage_is_the_beginning_of_a_held_out_document_with_its_decisions(run, found):
    ((stream, _),) = streams_for(run[0], "validation")
    passage = found[1]["passage"]
    text = base64.b64decode(passage["text_base64"])
    assert any(document.startswith(text) for document in stream.documents_iter()) and 0 < len(text) <= 1600
    assert {len(passage[name]) for name in ("entropy", "commit", "scratchpad")} == {len(text)}
    # BOS stands before the first byte, so the first of the fixed patches is one byte short.
    assert np.flatnonzero(passage["commit"])[:3].tolist() == [2, 6, 10]


def test_another_source_is_read_whole_whatever_its_bytes(run, tmp_path):
    _, workdir = run
    contents = [b"", b"\xff", bytes(range(256)), b"\xc3(" * 40, b"plain words\n" * 30]
    for i, data in enumerate(contents):
        (tmp_path / f"{i}.bin").write_bytes(data)
    before = (workdir / "evaluation.json").read_bytes()
    result = evaluate(workdir, source=f"text:{tmp_path}/*.bin")
    assert result["bytes"] == sum(map(len, contents)) and result["documents"] == len(contents)
    assert sum(result["bytes_by_offset"]) == result["bytes"]
    assert (workdir / "evaluation.json").read_bytes() == before


def test_overrides_change_the_model_and_leave_what_is_kept(run, found):
    _, workdir = run
    before = (workdir / "evaluation.json").read_bytes()
    result = evaluate(workdir, overrides={"trigger.kind": "none"})
    assert result["bpb"] == pytest.approx(found[1]["results"]["without_scratchpads"]["bpb"], rel=1e-6)
    assert result["overrides"] == {"trigger.kind": "none"}
    assert (workdir / "evaluation.json").read_bytes() == before


def test_max_bytes_reads_the_beginning(run):
    result = evaluate(run[1], max_bytes=100, split="train")
    # 100 positions after the first BOS, of which some may be another document's.
    assert 90 < result["bytes"] <= 100


def test_a_model_without_scratchpads_or_entropies_has_nothing_to_compare(tmp_path):
    _, workdir = runs.untrained(tmp_path, BYTE_LEVEL)
    result = evaluate(workdir)
    assert result["trunk_calls_per_byte"] == 1 and result["entropy_head_bpb"] is None
    kept = json.loads((workdir / "evaluation.json").read_text())
    assert [at["threshold"] for at in kept["results"]["sweep"]] == [None]
    assert kept["results"]["without_scratchpads"] is None
    assert set(kept["passage"]["entropy"]) == {None}


BYTE_LEVEL = {"patching.kind": "byte", "trigger.kind": "none", "model.entropy_head.weight": 0.0}


def test_a_report_says_what_was_read_and_no_lesser_one_takes_its_place(tmp_path):
    made, workdir = runs.untrained(tmp_path, BYTE_LEVEL)
    checkpoints = Checkpoints(workdir / "checkpoints", made, 2)
    checkpoints.save(5, weights_lib.random(made, 1))
    checkpoints.close()
    files = lambda: {p.name for p in workdir.glob("*.html")} | {p.name for p in workdir.glob("evaluation*.json")}  # noqa: E731
    result = evaluate(workdir, max_bytes=300)
    kept = json.loads((workdir / "evaluation.json").read_text())
    assert (kept["step"], kept["max_bytes"]) == (5, 300) and kept["results"]["validation"] == result
    assert "at step 5 on" in (workdir / "report.html").read_text() and "of each source the first 300" in (workdir / "report.html").read_text()
    before = {name: (workdir / name).read_bytes() for name in files()}
    assert before.keys() == {"evaluation.json", "report.html"}
    other = evaluate(workdir, step=0, max_bytes=200, compressor_bytes=0)
    assert (other["step"], other["compressors"], other["max_bytes"]) == (0, None, 200)
    assert files() == before.keys() | {"evaluation_step_0_first_200_bytes.json", "report_step_0_first_200_bytes.html"}
    assert {name: (workdir / name).read_bytes() for name in before} == before
    assert "at step 0 on" in (workdir / "report_step_0_first_200_bytes.html").read_text()


@pytest.fixture
def small(tmp_path):
    return runs.untrained(tmp_path, BYTE_LEVEL)[1]


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device", "somewhere")


def test_the_result_is_told_before_it_is_written_and_a_full_disk_is_a_warning(small, monkeypatch, caplog):
    told = []
    monkeypatch.setattr(verbs, "replace_text", lambda *_: told.append("written") or full())
    result = evaluate(small, max_bytes=200, tell=told.append)
    assert told == [result, "written"] and result["bytes"] > 0
    assert "evaluation.json is not written: No space left on device; the result is none the worse" in caplog.text
    assert not (small / "evaluation.json").exists() and not (small / "report.html").exists()


def test_a_report_that_cannot_be_written_costs_nothing_else(small, monkeypatch, caplog):
    monkeypatch.setattr(page, "replace_text", full)
    result = evaluate(small, max_bytes=200)
    assert json.loads((small / "evaluation.json").read_text())["results"]["validation"] == result
    assert "report.html is not written: No space left on device" in caplog.text
    monkeypatch.undo()
    (small / "metrics.jsonl").write_text("what\n")
    (small / "evaluation.json").write_text('{"step": "x"}')
    assert evaluate(small, max_bytes=200)["bpb"] == result["bpb"]
    assert "metrics.jsonl:1" in caplog.text and "evaluation.json: step: Expected" in caplog.text


def test_a_workdir_that_is_removed_meanwhile_is_a_warning(small, caplog):
    result = evaluate(small, max_bytes=200, tell=lambda _: shutil.rmtree(small))
    assert result["bytes"] > 0 and not small.exists()
    assert "evaluation.json is not written: No such file or directory" in caplog.text


def test_the_verb_prints_first_and_then_says_what_it_could_not_write(small, tmp_path, monkeypatch, capsys):
    """In the end the report is there, the result on standard output, and the exit code 1."""
    monkeypatch.setattr("scratchpatch.files.replace_text", full)
    arguments = ["eval", f"--workdir={small}", "--max_bytes=200", "--json", f"--output={tmp_path}/out.json"]
    assert cli.main(arguments) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["bytes"] > 0 and out.count("\n") == 1
    assert f"scratchpatch: {tmp_path}/out.json cannot be written: No space left on device; standard output has the result\n" in err
    assert (small / "evaluation.json").exists() and (small / "report.html").exists() and not (tmp_path / "out.json").exists()
    monkeypatch.undo()
    assert cli.main(arguments) == 0
    assert json.loads((tmp_path / "out.json").read_text()) == json.loads(capsys.readouterr().out)


def test_a_standard_output_that_cannot_be_written_is_one_line(small, monkeypatch, capsys):
    with open("/dev/full", "w") as nowhere:
        monkeypatch.setattr("sys.stdout", nowhere)
        code = cli.main(["eval", f"--workdir={small}", "--max_bytes=200"])
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            nowhere.close()
    assert code == 1 and "scratchpatch: standard output cannot be written: No space left on device" in capsys.readouterr().err
    assert (small / "evaluation.json").exists()


def test_weights_that_are_not_finite_are_no_result(tmp_path, capsys):
    def spoilt(made):
        weights = weights_lib.random(made, 0)
        return weights | {"params": jax.tree.map(lambda x: x.at[..., 0].set(np.nan), weights["params"])}

    _, workdir = runs.untrained(tmp_path, BYTE_LEVEL, spoilt)
    assert cli.main(["eval", f"--workdir={workdir}"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "hold NaN or infinite numbers, in params." in err and "more arrays" in err
    assert not (workdir / "evaluation.json").exists()


@pytest.mark.parametrize(
    "kept, step, named, max_bytes, kind",
    [
        ({}, 200, True, None, ""),
        ({"step": 200, "max_bytes": None}, 200, True, None, ""),
        ({"step": 200, "max_bytes": None}, 300, False, None, ""),
        ({"step": 300, "max_bytes": None}, 200, True, None, "_step_200"),
        ({"step": 200}, 300, True, None, "_step_300"),
        ({"step": 200}, 200, False, 1000, "_step_200_first_1000_bytes"),
        ({"step": 200, "max_bytes": 1000}, 200, False, 999, "_step_200_first_999_bytes"),
        ({"step": 200, "max_bytes": 1000}, 300, False, 1000, ""),
        ({"step": 200, "max_bytes": 1000}, 200, False, None, ""),
        ({"step": 300, "max_bytes": 1000}, 200, True, 1000, "_step_200_first_1000_bytes"),
    ],
)
def test_what_an_evaluation_may_replace(kept, step, named, max_bytes, kind):
    assert verbs._kind(kept, step, named, max_bytes) == kind


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"step": 7}, "no checkpoint of step 7; stored steps: 0"),
        ({"overrides": {"trigger.treshold": 1.0}}, "the nearest is 'trigger.threshold'"),
        ({"overrides": {"model.d_byte": 32}}, "needs other parameters"),
        ({"source": "text:/nowhere/*.txt"}, "no file matches"),
    ],
)
def test_what_cannot_be_evaluated_is_named(run, arguments, words):
    with pytest.raises(UserError, match=words):
        evaluate(run[1], **arguments)
