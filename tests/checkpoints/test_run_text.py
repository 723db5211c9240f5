"""data.json: text that must not change, and weights that may."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from scratchpatch.checkpoints import run_text
from scratchpatch.checkpoints.workdir import load_config
from scratchpatch.data.batches import Batches
from scratchpatch.data.mixture import streams_for
from scratchpatch.errors import UserError
from scratchpatch.evaluation.calibrate import calibrate
from scratchpatch.evaluation.evaluate import evaluate
from scratchpatch.training.loop import train
from tests import runs


def streams(checksum="c", weights=(1.0, 2.0)):
    return [
        (SimpleNamespace(spec=f"text:{name}", checksum=checksum + name), w)
        for name, w in zip("ab", weights, strict=True)
    ]


def stored(workdir):
    return json.loads((workdir / "data.json").read_text())


def test_the_first_start_keeps_checksums_and_weights(tmp_path):
    run_text.guard(tmp_path, streams(), streams("v"))
    assert stored(tmp_path) == {
        "checksums": {"text:a": "ca", "text:b": "cb"},
        "validation_checksums": {"text:a": "va", "text:b": "vb"},
        "weights": [[0, [1.0, 2.0]]],
    }
    assert run_text.weights(tmp_path, [1.0, 2.0], 0) == [(0, [1.0, 2.0])]


def test_text_that_changed_is_refused_by_name(tmp_path):
    run_text.guard(tmp_path, streams(), streams("v"))
    run_text.guard(tmp_path, streams(weights=(5.0, 1.0)), streams("v"))
    with pytest.raises(UserError, match="the text of text:a, text:b is not what .* was trained on: restore it"):
        run_text.guard(tmp_path, streams("other"), streams("v"))
    with pytest.raises(UserError, match="the text of text:b is not what .* was validated on: restore it"):
        run_text.guard(tmp_path, streams(), [*streams("v")[:1], *streams("other")[1:]])


def test_a_run_of_an_older_version_keeps_its_validation_text_from_then_on(tmp_path):
    (tmp_path / "data.json").write_text('{"checksums": {"text:a": "ca", "text:b": "cb"}, "weights": [[0, [3.0, 2.0]]]}')
    with pytest.raises(
        UserError, match=r"not what .* trained on \(it is of a version that dealt documents to splits by their names\)"
    ):
        run_text.guard(tmp_path, streams("other"), streams("v"))
    run_text.guard(tmp_path, streams(), streams("v"))
    assert stored(tmp_path)["validation_checksums"] == {"text:a": "va", "text:b": "vb"}
    assert stored(tmp_path)["weights"] == [[0, [3.0, 2.0]]]


def on_files(folder, validation=None, **texts):
    """A run, saved at step 0, on files of these names and bytes."""
    for place, written in (("text", texts), ("held", validation or {})):
        (folder / place).mkdir(exist_ok=True)
        for name, data in written.items():
            (folder / place / f"{name}.txt").write_bytes(data)
    fields = {"data.validation_sources": ((f"text:{folder}/held/*.txt", 1.0),)} if validation else {}
    config, workdir = runs.untrained(folder, runs.SHALLOW | {"patching.kind": "entropy"} | fields)
    run_text.guard(workdir, streams_for(config, "train"), streams_for(config, "validation"))
    return workdir


def test_a_file_that_was_added_is_refused_by_all_that_read_the_runs_own_text(tmp_path):
    """The validation text would be what it trained on. Text that is named stays free."""
    workdir = on_files(tmp_path, a=b"so it goes. " * 200)
    own = load_config(workdir)
    assert all(run_text.own_streams(workdir, own, split) for split in ("train", "validation", "test", "all"))
    (tmp_path / "text/b.txt").write_bytes(b"and so it went. " * 200)
    says = rf"the text of text:{tmp_path}/text/\*\.txt is not what {workdir} was trained on"
    says += ": restore it, or name text to read by --source"
    for split in ("train", "validation", "test", "all"):
        with pytest.raises(UserError, match=says):
            evaluate(workdir, split=split)
    for split in ("train", "validation"):
        with pytest.raises(UserError, match=says):
            calibrate(workdir, bytes_per_patch=3.0, split=split)
    assert not (workdir / "evaluation.json").exists() and not (workdir / "report.html").exists()
    other = {"data.sources": ((f"text:{tmp_path}/text/a.txt", 1.0),)}
    config = runs.config(tmp_path, other)
    assert run_text.own_streams(workdir, config, "validation", other)
    with pytest.raises(UserError, match="is not what"):
        run_text.own_streams(workdir, config, "validation", {"trigger.threshold": 1.0})
    (tmp_path / "text/b.txt").unlink()
    assert run_text.own_streams(workdir, own, "validation")


def test_validation_text_of_its_own_that_changed_is_refused(tmp_path):
    workdir = on_files(tmp_path, {"v": b"held out"}, a=b"text")
    own = load_config(workdir)
    assert run_text.own_streams(workdir, own, "validation")
    (tmp_path / "held/v.txt").write_bytes(b"anything else")
    with pytest.raises(UserError, match=rf"the text of text:{tmp_path}/held/\*\.txt is not what .* was validated on"):
        run_text.own_streams(workdir, own, "validation")
    assert run_text.own_streams(workdir, own, "train")
    # What was not written down is not compared.
    data_json = stored(workdir)
    del data_json["validation_checksums"]
    (workdir / "data.json").write_text(json.dumps(data_json))
    assert run_text.own_streams(workdir, own, "validation")


def test_weights_hold_from_where_the_run_goes_on(tmp_path):
    run_text.guard(tmp_path, streams(), streams("v"))
    a, b, c = [1.0, 2.0], [3.0, 1.0], [1.0, 1.0]
    assert run_text.weights(tmp_path, b, 100) == [(0, a), (100, b)]
    # The checkpoint of step 100 is gone: what was trained from 60 on is trained again alike.
    assert run_text.weights(tmp_path, b, 60) == [(0, a), (100, b)]
    assert run_text.weights(tmp_path, c, 140) == [(0, a), (100, b), (140, c)]
    # From before a change, with other weights than the newest: the changes after do not come.
    assert run_text.weights(tmp_path, b, 120) == [(0, a), (100, b)]
    assert run_text.weights(tmp_path, a, 80) == [(0, a)]
    assert run_text.weights(tmp_path, c, 0) == [(0, c)]
    assert stored(tmp_path)["weights"] == [[0, c]]


def data(checksums='{"text:a": "ca", "text:b": "cb"}', weights="[[0, [1.0, 2.0]]]", more=""):
    return f'{{"checksums": {checksums}, "weights": {weights}{more}}}'


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "[]",
            "null",
            '{"text:a": "ca"}',
            data("[]"),
            data('{"text:a": 3}'),
            data(more=', "validation_checksums": 3'),
        ),
        *(
            data(weights=each)
            for each in ("[]", "{}", "null", "[[0, 1.0]]", '[[0, ["x"]]]', "[[0, [-1.0, 2.0]]]", "[[0, [NaN, 1.0]]]")
        ),
        *(
            data(weights=each)
            for each in (
                "[[1, [1.0, 2.0]]]",
                "[[0, [1.0, 2.0]], [5, [1.0]]]",
                "[[0, [0.0, 0.0]]]",
                "[" * 5000,
                "[[0, [1e999, 1.0]]]",
            )
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, text):
    (tmp_path / "data.json").write_text(text)
    with pytest.raises(UserError, match=f"cannot read {tmp_path}/data.json"):
        run_text.guard(tmp_path, streams(), streams("v"))


def test_a_run_goes_on_with_other_weights(tmp_path, monkeypatch):
    """From step 4 on by new weights; a copy that goes on from step 2 reads what the run read.

    Other sources are refused.
    """
    runs.leave_out_audit(monkeypatch.setattr)
    runs.write_text(tmp_path / "other", seed=1)

    def config(first: float, **fields):
        pairs = ((f"text:{tmp_path}/text/*.txt", first), (f"text:{tmp_path}/other/*.txt", 1.0))
        small = {
            "model.trunk.kind": "none",
            "model.entropy_head.weight": 0.0,
            "trigger.kind": "none",
            "model.encoder.layers": 0,
            "model.decoder.layers": 0,
        }
        more = {
            "training.steps": 6,
            "training.eval_bytes": 64,
            "training.checkpoint_every": 2,
            "training.keep_last": 9,
            "data.sources": pairs,
        }
        return runs.config(tmp_path, small | more | fields)

    seen, batch = [], Batches.batch
    monkeypatch.setattr(Batches, "batch", lambda self, step: seen.append((step, rows := batch(self, step))) or rows)
    train(config(1.0), tmp_path / "run")
    run = runs.rewind(tmp_path / "run", 4, tmp_path / "changed")
    train(config(9.0), run)
    assert stored(run)["weights"] == [[0, [1.0, 1.0]], [4, [9.0, 1.0]]]
    plain, changed = Batches(config(1.0)), Batches(config(1.0))
    changed.follow([(0, [1.0, 1.0]), (4, [9.0, 1.0])])
    assert any((changed.batch(step) != plain.batch(step)).any() for step in (4, 5))
    assert [line["bytes"] for line in runs.lines(run) if "bpb" in line] == [
        int((changed.batch(step)[:, 1:] < 256).sum()) for step in range(6)
    ]
    seen.clear()
    again = runs.rewind(run, 2, tmp_path / "again")
    train(config(9.0), again)
    assert runs.lines(again) == runs.lines(run) and stored(again) == stored(run)
    for step, rows in seen:
        np.testing.assert_array_equal(rows, batch(changed, step))
    assert {step for step, _ in seen} >= {2, 3, 4, 5}
    third = ((f"text:{tmp_path}/text/*.txt", 1.0),)
    with pytest.raises(UserError, match="holds another experiment: data.sources"):
        train(config(1.0, **{"data.sources": third}), again)
