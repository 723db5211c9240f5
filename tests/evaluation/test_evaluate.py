"""`evaluate` on a workdir: what it measures, and what it compares for the page. Its weights are random."""

import jax
import numpy as np
import pytest

from scratchpatch import cli
from scratchpatch.data.mixture import streams_for
from scratchpatch.errors import UserError
from scratchpatch.evaluation.evaluate import evaluate
from scratchpatch.model import weights as weights_lib
from tests import runs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(config, workdir) of a model with a scratchpad inside each patch of four."""
    few = {"model.decoder.layers": 0, "model.pooling.kind": "mean"}
    return runs.untrained(tmp_path_factory.mktemp("evaluate"), few | {"trigger.kind": "stride", "trigger.stride": 2})


@pytest.fixture(scope="module")
def evaluation(run):
    """On the run's own validation split."""
    return evaluate(run[1])


@pytest.fixture(scope="module")
def comparisons(evaluation):
    return evaluation.comparisons()


def test_the_runs_own_validation_split_is_the_default(run, evaluation):
    config, workdir = run
    ((stream, _),) = streams_for(config, "validation")
    result = evaluation.result
    assert result["bytes"] == stream.bytes and result["documents"] == stream.documents
    assert (result["source"], result["split"], result["overrides"]) == (config.data.sources[0][0], "validation", {})
    assert result["bpb"] == pytest.approx(8, abs=0.3) and result["step"] == 0
    assert result["scratchpads_per_byte"] == pytest.approx(0.25, abs=0.01)
    assert evaluation.for_the_page


def test_nothing_is_written(run, comparisons):
    assert not list(run[1].glob("evaluation*")) and not list(run[1].glob("report*"))


def test_the_model_is_compared_with_itself_without_scratchpads(evaluation, comparisons):
    assert comparisons["step"] == 0 and comparisons["results"]["validation"] == evaluation.result
    assert comparisons["account"]["parameters"]["total"] > 0
    plain = comparisons["results"]["without_scratchpads"]
    assert plain["scratchpads_per_byte"] == 0 and plain["bpb"] != evaluation.result["bpb"]
    assert plain["commits_per_byte"] == evaluation.result["commits_per_byte"]


def test_the_sweep_goes_from_no_scratchpad_to_one_at_every_byte(evaluation, comparisons):
    """After the model as trained come the thresholds, falling, on the same bytes."""
    trained, *sweep = comparisons["results"]["sweep"]
    assert trained["threshold"] is None and trained["bpb"] == pytest.approx(evaluation.result["bpb"], rel=1e-6)
    thresholds = [point["threshold"] for point in sweep]
    assert len(sweep) == 8 and thresholds == sorted(thresholds, reverse=True)
    rates = [point["scratchpads_per_byte"] for point in sweep]
    assert rates == sorted(rates) and len(set(rates)) == len(rates)
    # The share of the text that each threshold was chosen for.
    np.testing.assert_allclose(rates[1:-1], (0.03, 0.06, 0.12, 0.2, 0.3, 0.5), atol=0.01)
    assert sweep[0]["bpb"] == pytest.approx(comparisons["results"]["without_scratchpads"]["bpb"], rel=1e-5)
    assert (rates[0], sweep[-1]["trunk_calls_per_byte"]) == (0, 1)
    costs = [point["flops_per_byte"] for point in sweep]
    assert costs == sorted(costs) and costs[0] < costs[-1]


def test_the_passage_is_the_beginning_of_a_held_out_document_with_its_decisions(run, comparisons):
    ((stream, _),) = streams_for(run[0], "validation")
    passage = comparisons["passage"]
    text = passage["data"]
    assert any(document.startswith(text) for document in stream.documents_iter()) and 0 < len(text) <= 1600
    assert {len(passage[name]) for name in ("entropy", "commit", "scratchpad")} == {len(text)}
    # BOS stands before the first byte, so the first of the fixed patches is one byte short.
    assert np.flatnonzero(passage["commit"])[:3].tolist() == [2, 6, 10]


def test_another_source_is_read_whole_whatever_its_bytes(run, tmp_path):
    contents = [b"", b"\xff", bytes(range(256)), b"\xc3(" * 40, b"plain words\n" * 30]
    for i, data in enumerate(contents):
        (tmp_path / f"{i}.bin").write_bytes(data)
    evaluation = evaluate(run[1], source=f"text:{tmp_path}/*.bin")
    result = evaluation.result
    assert result["bytes"] == sum(map(len, contents)) and result["documents"] == len(contents)
    assert sum(result["bytes_by_offset"]) == result["bytes"]
    assert not evaluation.for_the_page


def test_overrides_change_the_model(run, comparisons):
    evaluation = evaluate(run[1], overrides={"trigger.kind": "none"})
    without = comparisons["results"]["without_scratchpads"]
    assert evaluation.result["bpb"] == pytest.approx(without["bpb"], rel=1e-6)
    assert evaluation.result["overrides"] == {"trigger.kind": "none"}
    assert not evaluation.for_the_page


def test_max_bytes_reads_the_beginning(run):
    evaluation = evaluate(run[1], max_bytes=100, split="train")
    # 100 positions after the first BOS, of which some may be another document's.
    assert 90 < evaluation.result["bytes"] <= 100
    assert not evaluation.for_the_page


def test_a_model_without_scratchpads_or_entropies_has_nothing_to_compare(tmp_path):
    _, workdir = runs.untrained(tmp_path, runs.SHALLOW | runs.BYTE_LEVEL)
    evaluation = evaluate(workdir)
    assert evaluation.result["trunk_calls_per_byte"] == 1 and evaluation.result["entropy_head_bpb"] is None
    comparisons = evaluation.comparisons()
    assert [point["threshold"] for point in comparisons["results"]["sweep"]] == [None]
    assert comparisons["results"]["without_scratchpads"] is None
    assert np.isnan(comparisons["passage"]["entropy"]).all()


def test_weights_that_are_not_finite_are_no_result(tmp_path, capsys):
    def spoilt(made):
        weights = weights_lib.random(made, 0)
        return weights | {"params": jax.tree.map(lambda x: x.at[..., 0].set(np.nan), weights["params"])}

    _, workdir = runs.untrained(tmp_path, runs.SHALLOW | runs.BYTE_LEVEL, spoilt)
    assert cli.main(["eval", f"--workdir={workdir}"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "hold NaN or infinite numbers, in params." in err and "more arrays" in err
    assert not (workdir / "evaluation.json").exists()


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
