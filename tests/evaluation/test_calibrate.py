"""Thresholds that give a rate: the search on scores, and the verb on models with random weights.

Legend: n scores.
"""

import functools
import json

import jax
import numpy as np
import pytest
from hypothesis import given, strategies as st

from scratchpatch import cli, config, config_fields
from scratchpatch.data.mixture import streams_for
from scratchpatch.errors import UserError
from scratchpatch.evaluation import calibrate as calibrate_lib
from scratchpatch.evaluation.calibrate import calibrate, table
from scratchpatch.evaluation.evaluate import evaluate
from tests import runs, tiny

# So few bytes that every window is in the sample.
WHOLE = 1 << 20
MODELS = {
    "head": {"patching.kind": "entropy", "patching.gain": 0.01, "trigger.gain": 0.01},
    "entropy model": {
        "patching.kind": "entropy",
        "model.entropy_head.weight": 0.0,
        "model.entropy_model.layers": 1,
        "model.entropy_model.d_byte": 16,
        "model.entropy_model.heads": 2,
        "trigger.kind": "none",
    },
}


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    """Name to (config, workdir)."""

    def made(fields):
        few = {"patching.max_patch_bytes": 30, "model.decoder.layers": 0, "model.pooling.kind": "mean"}
        return runs.untrained(tmp_path_factory.mktemp("calibrate"), few | fields)

    return {name: made(fields) for name, fields in MODELS.items()}


def search(score_n, target, section="patching"):
    def count(threshold):
        return int((score_n > np.float32(threshold)).sum())

    return calibrate_lib.search(section, count, len(score_n), target, config.default())


SCORES = np.float32([-2.5, -1e-3, 0, 1e-7, 0.1, 0.3, 1.335, 1.3351, 5])


@given(st.lists(st.sampled_from(SCORES), min_size=2, max_size=40), st.floats(1, 40))
def test_no_threshold_comes_nearer(values, target):
    score_n = np.float32(values)
    wanted = len(score_n) / target
    reachable = [int((score_n > t).sum()) for t in (-100.0, *score_n)]
    if round(wanted) > len(score_n) or len(set(reachable)) == 1:
        return
    threshold, rates = search(score_n, target)
    got = int((score_n > np.float32(threshold)).sum())
    assert abs(got - wanted) == min(abs(n - wanted) for n in reachable)
    sides = [0 if rate is None else len(score_n) / rate for rate in rates]
    # Every other reachable count lies outside the two sides.
    assert not [n for n in reachable if sides[1] + 0.1 < n < sides[0] - 0.1]


def test_a_threshold_is_written_in_few_digits():
    score_n = np.linspace(0, 5, 1001, dtype=np.float32)
    threshold, _ = search(score_n, 4.0)
    assert threshold == pytest.approx(3.75, abs=0.006) and len(str(threshold)) <= 5
    threshold, _ = search(score_n, 0.2, "trigger")
    assert threshold == pytest.approx(4.0, abs=0.006)


def test_equal_entropies_leave_a_gap_that_is_reported():
    threshold, rates = search(np.float32([1, 2, 2, 2, 2, 2, 2, 3]), 1.8)
    assert rates == [8 / 7, 8.0] and 1 <= threshold < 2


# Where entropies come from and what is made of them are apart, so that all kinds are tried on one of the models alone.
KINDS = [*(("head", kind) for kind in config_fields.ENTROPY_PATCHIFIERS), ("entropy model", "entropy")]


@pytest.mark.parametrize("name, kind", KINDS)
def test_patches_have_the_size_wanted_and_eval_agrees(workdirs, name, kind):
    _, workdir = workdirs[name]
    overrides = {"patching.kind": kind, "patching.jump": -0.01, "trigger.kind": "none"}
    target = 6.0
    result = calibrate(workdir, bytes_per_patch=target, sample_bytes=WHOLE, overrides=overrides)
    assert result["sample"]["rate"] == pytest.approx(target, rel=0.01)
    assert result["settings"] == overrides | {"patching.threshold": result["threshold"]}
    # Another program may round an entropy to the other side of the threshold.
    train = evaluate(workdir, split="train", overrides=result["settings"]).result
    assert result["sample"]["rate"] == pytest.approx(train["bytes_per_patch"], rel=3e-3)
    assert result["sample"]["bytes"] == train["bytes"]
    held_out = evaluate(workdir, overrides=result["settings"]).result
    assert result["held_out"]["rate"] == pytest.approx(held_out["bytes_per_patch"], rel=0.03)
    assert (result["held_out"]["bytes"], result["held_out"]["split"]) == (held_out["bytes"], "validation")


def test_other_thresholds_of_the_other_decision_compile_nothing(workdirs):
    _, workdir = workdirs["head"]

    def compilations(threshold):
        overrides = {"trigger.threshold": threshold}
        with runs.compilations() as compiled:
            result = calibrate(workdir, bytes_per_patch=6.0, sample_bytes=WHOLE, overrides=overrides)
            evaluate(workdir, overrides=result["settings"])
        return len(compiled)

    assert compilations(5.3) > 0
    assert [compilations(threshold) for threshold in (5.4, 5.5)] == [0, 0]


@pytest.mark.parametrize("kind", ("entropy", "entropy_jump"))
def test_scratchpads_fire_as_often_as_wanted_beside_patches_under_a_controller(workdirs, kind):
    _, workdir = workdirs["head"]
    result = calibrate(workdir, scratchpads_per_byte=0.2, sample_bytes=WHOLE, overrides={"trigger.kind": kind})
    assert result["sample"]["rate"] == pytest.approx(0.2, rel=0.01)
    train = evaluate(workdir, split="train", overrides=result["settings"]).result
    assert result["sample"]["rate"] == pytest.approx(train["scratchpads_per_byte"], rel=3e-3)


def test_triggers_that_read_benefits_fire_as_often_as_wanted(tmp_path):
    """On one model that has a head and a table; the oracle measures, and says in its result that it is none."""
    fields = {"model.benefit.width": 4, "model.benefit.table": True, "patching.kind": "fixed"}
    _, workdir = runs.untrained(tmp_path, runs.SHALLOW | fields)
    for kind in ("score", "learned", "oracle"):
        result = calibrate(workdir, scratchpads_per_byte=0.2, sample_bytes=WHOLE, overrides={"trigger.kind": kind})
        # The text repeats itself, and so do the scores of a model that knows nothing.
        assert result["sample"]["rate"] == pytest.approx(0.2, abs=0.02)
        train = evaluate(workdir, split="train", overrides=result["settings"]).result
        assert result["sample"]["rate"] == pytest.approx(train["scratchpads_per_byte"], rel=0.02)
        assert train["causal"] == (kind != "oracle")


def test_a_model_without_a_trigger_gets_one(workdirs):
    _, workdir = workdirs["entropy model"]
    with pytest.raises(UserError, match="trigger.kind = 'none' has no threshold: --override trigger.kind=entropy"):
        calibrate(workdir, scratchpads_per_byte=0.2)
    result = calibrate(workdir, scratchpads_per_byte=0.2, overrides={"trigger.kind": "entropy"})
    assert result["field"] == "trigger.threshold" and result["sample"]["rate"] == pytest.approx(0.2, rel=0.01)


def test_a_sample_is_spread_over_the_text(workdirs):
    made, workdir = workdirs["head"]
    result = calibrate(workdir, bytes_per_patch=4.0, sample_bytes=1500)
    ((stream, _),) = streams_for(made, "train")
    assert 1400 < result["sample"]["bytes"] < 1700 < stream.bytes
    assert result["sample"]["rate"] == pytest.approx(4.0, rel=0.01)


@pytest.mark.parametrize("arguments", [{"split": "validation"}, {"source": "another"}])
def test_text_without_a_validation_split_is_halved(workdirs, tmp_path, arguments):
    made, workdir = workdirs["head"]
    if "source" in arguments:
        written = runs.write_text(tmp_path / "other", files=3, seed=5)
        arguments = {"source": f"text:{tmp_path}/other/*.txt"}
        size = sum(map(len, written.values()))
    else:
        ((stream, _),) = streams_for(made, "validation")
        size = stream.bytes
    result = calibrate(workdir, bytes_per_patch=4.0, sample_bytes=WHOLE, **arguments)
    halves = result["sample"], result["held_out"]
    assert sum(half["bytes"] for half in halves) == size
    assert abs(halves[0]["bytes"] - halves[1]["bytes"]) <= 4
    names = [half["split"].split(", ")[-1] for half in halves]
    assert names == ["first half of the sample", "second half of the sample"]


PATCHES, SCRATCHPADS = {"bytes_per_patch": 6.0}, {"scratchpads_per_byte": 0.2}
REFUSED = [
    (
        {"bytes_per_patch": 40.0},
        "--target_bytes_per_patch=40: thresholds reach from 1 to 3.* another patching.max_patch_bytes than 30",
    ),
    (PATCHES | {"overrides": {"patching.max_patch_bytes": 5}}, "=6: thresholds reach from 1 to 5.* than 5"),
    ({"scratchpads_per_byte": 1.0}, "--target_scratchpads_per_byte=1: thresholds reach from 0 to 0.[5-9]"),
    (PATCHES | {"overrides": {"patching.kind": "fixed"}}, "'fixed' has no threshold: set patching.patch_bytes"),
    (PATCHES | {"overrides": {"patching.kind": "whitespace"}}, "its patches are words"),
    (SCRATCHPADS | {"overrides": {"trigger.kind": "stride"}}, "'stride' has no threshold: set trigger.stride"),
    (PATCHES | {"overrides": {"patching.threshold": 1.0}}, "leave out --override patching.threshold=1.0"),
    (PATCHES | {"overrides": {"patching.gain": 0.1}}, "patching.gain = 0.1 moves the threshold"),
    (PATCHES | {"source": "text:/nowhere/*.txt"}, "no file matches"),
    (PATCHES | {"step": 7}, "no checkpoint of step 7"),
]


@pytest.mark.parametrize("arguments, words", REFUSED)
def test_what_cannot_be_is_named_with_the_fix(workdirs, arguments, words):
    with pytest.raises(UserError, match=words):
        calibrate(workdirs["head"][1], sample_bytes=WHOLE, **arguments)


def test_every_kind_without_a_threshold_has_advice():
    scored = config_fields.SCORED
    assert set(calibrate_lib._INSTEAD["patching"]) == set(config_fields.PATCHIFIERS) - set(scored["patching"])
    assert set(calibrate_lib._INSTEAD["trigger"]) == set(config_fields.TRIGGERS) - set(scored["trigger"])


def test_a_model_without_patches_to_size_is_named(tmp_path):
    fields = {"model.trunk.kind": "none", "model.entropy_head.weight": 0.0, "trigger.kind": "none"}
    _, workdir = runs.untrained(tmp_path / "plain", fields)
    with pytest.raises(UserError, match="model.trunk.kind = 'none' makes neither patches nor scratchpads"):
        calibrate(workdir, bytes_per_patch=6.0)
    _, workdir = runs.untrained(tmp_path / "bytes", {"patching.kind": "byte"})
    with pytest.raises(UserError, match="every byte is a patch; train with patching.kind = 'entropy'"):
        calibrate(workdir, bytes_per_patch=6.0)
    with pytest.raises(UserError, match="leaves no byte inside a patch"):
        calibrate(workdir, scratchpads_per_byte=0.2)


def test_the_verb_prints_one_object_or_the_lines_that_use_it(workdirs, capsys):
    _, workdir = workdirs["head"]
    argv = ["calibrate", f"--workdir={workdir}", "--target_bytes_per_patch=6"]
    argv += ["--override", "patching.max_patch_bytes=20"]
    assert cli.main([*argv, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["target"] == 6 and result["settings"]["patching.threshold"] == result["threshold"]
    assert cli.main(argv) == 0
    said = capsys.readouterr().out
    assert said == table(result, str(workdir)) + "\n"
    for words in (
        f"--override patching.max_patch_bytes=20 --override patching.threshold={result['threshold']}",
        "config.patching.gain = 0.0",
        "config.patching.capacity = 1.0",
        f"config.patching.threshold = {result['threshold']}",
    ):
        assert words in said


def test_the_table_says_where_entropies_are_equal():
    text = {"bytes": 8, "source": "text:x", "split": "all"}
    result = {
        "field": "patching.threshold",
        "threshold": 1.5,
        "target": 2.0,
        "unit": "bytes per patch",
        "granularity": [8 / 7, None],
        "sample": text | {"rate": 8 / 7},
        "held_out": text | {"rate": None},
        "settings": {"patching.threshold": 1.5},
    }
    said = table(result, "a run")
    assert "the rate jumps between 1.143 and no patch at that threshold" in said
    assert "--workdir='a run'" in said


def test_commits_among_counted_positions_may_rise_with_the_threshold():
    """What the search's docstring owns up to: an end at byte 0 moves those that follow it every 4 bytes."""
    config = tiny.config({"patching.kind": "entropy", "patching.max_patch_bytes": 4, "patching.capacity": 1.0})
    entropy_BL = np.array([[2.0] + [1.0] * 7], np.float32)
    tokens_BL = np.full((1, 8), 7)
    decide = jax.jit(functools.partial(tiny.decide, config, tokens_BL, entropy_BL))
    layouts = [decide(patching=threshold) for threshold in (1.5, 2.5)]
    ends = [np.flatnonzero(layout.commit_BL[0]) for layout in layouts]
    assert [positions.tolist() for positions in ends] == [[0, 4], [3, 7]]
    # A window that answers for its last three positions counts more under the higher threshold.
    assert [(positions >= 5).sum() for positions in ends] == [0, 1]
