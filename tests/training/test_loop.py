"""What a run leaves and says: metrics, checkpoints, first lines, and the ways in which it refuses to go on."""

import logging
import math
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging as absl_logging

from scratchpatch import cli
from scratchpatch.checkpoints import settings
from scratchpatch.checkpoints.housekeeping import listing, listing_table
from scratchpatch.data.batches import Batches
from scratchpatch.data.mixture import streams_for
from scratchpatch.errors import UserError
from scratchpatch.evaluation import audit
from scratchpatch.model import loss
from scratchpatch.training import loop, optimizer
from scratchpatch.training.loop import train
from scratchpatch.training.step import Trainer
from scratchpatch.vocabulary import BYTES
from tests import runs

STEPS = 30
FIELDS = {"training.steps": STEPS, "training.eval_every": 10}
PER_STEP = {
    "bpb",
    "head_bpb",
    "gradient_norm",
    "learning_rate",
    "bytes",
    "trunk_calls_per_byte",
    "scratchpads_per_byte",
    "bytes_per_patch",
    "suppressed_commits",
    "suppressed_scratchpads",
    "patching_threshold",
    "trigger_threshold",
}


class Run:
    """A finished run: config, workdir, what it logged."""

    def __init__(self, folder, fields):
        self.config, self.workdir = runs.config(folder, fields), folder / "run"
        self.said: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: self.said.append(record.getMessage())
        logger = absl_logging.get_absl_logger()
        logger.addHandler(handler)
        logger.setLevel("INFO")
        try:
            train(self.config, self.workdir)
        finally:
            logger.removeHandler(handler)
        self.lines = runs.lines(self.workdir)
        self.training = [line for line in self.lines if "bpb" in line]
        self.validation = [line for line in self.lines if "validation_bpb" in line]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        runs.leave_out_audit(patch.setattr)
        return Run(tmp_path_factory.mktemp("loop"), FIELDS)


def test_every_step_has_one_line_of_finite_metrics(run):
    assert [line["step"] for line in run.training] == list(range(1, STEPS + 1))
    schedule = optimizer.schedule(run.config)
    for index, line in enumerate(run.training):
        assert line.keys() == PER_STEP | {"step", "end_of_document_nats"}
        assert all(math.isfinite(line[name]) for name in PER_STEP)
        assert line["learning_rate"] == schedule(index)
        targets = Batches(run.config).batch(index)[:, 1:]
        assert line["bytes"] == (targets < BYTES.bos).sum()
        # A mean over the ends of documents in the batch, if there are any.
        assert (line["end_of_document_nats"] is None) == (not (targets == BYTES.bos).any())
        assert line["trunk_calls_per_byte"] == pytest.approx(1 / line["bytes_per_patch"] + line["scratchpads_per_byte"])
    assert any(line["scratchpads_per_byte"] > 0 for line in run.training)
    assert any(line["suppressed_scratchpads"] > 0 for line in run.training)


def test_rates_are_there_and_utilisation_only_where_the_peak_is_known(run):
    for line in (run.workdir / "metrics.jsonl").read_text().splitlines():
        if '"bpb"' in line:
            assert '"bytes_per_second"' in line and '"flops_per_second"' in line and '"mfu"' not in line


def test_the_loss_falls(run):
    bpb = [line["bpb"] for line in run.training]
    assert bpb[0] == pytest.approx(8, abs=0.3)
    assert np.mean(bpb[-5:]) < np.mean(bpb[:5]) - 2
    scores = [line["validation_bpb"] for line in run.validation]
    assert scores == sorted(scores, reverse=True) and scores[-1] < 6


def test_validations_come_when_due_and_at_the_end_and_alone_store_nothing(run):
    assert [line["step"] for line in run.validation] == [10, 20, 30]
    assert runs.stored_steps(run.workdir) == [30]
    assert any((run.workdir / "tensorboard").iterdir())


def test_the_first_lines_say_what_is_trained_and_that_it_is_causal(run):
    first = "\n".join(run.said[: run.said.index("training from random weights") + 1])
    for words in ("parameters", "inference FLOPs/byte", "trunk KV cache", "the causality audit passed"):
        assert words in first, words
    assert "memory of the compiled step" in first and "MB per device" in first


def test_a_validation_reads_the_bytes_that_are_named_and_its_score_is_stored_with_its_step(tmp_path, monkeypatch):
    runs.leave_out_audit(monkeypatch.setattr)
    scores = iter([3.0, 2.0, 4.0, 3.5])
    validate = loop._Run._validation

    def rigged(self, weights, done):
        _, size = validate(self, weights, done)
        return next(scores), size

    monkeypatch.setattr(loop._Run, "_validation", rigged)
    often = {"training.steps": 8, "training.eval_every": 2, "training.checkpoint_every": 4, "training.keep_last": 1}
    config = runs.config(tmp_path, runs.SHALLOW | {"training.eval_bytes": 300} | often)
    train(config, tmp_path / "run")
    # Step 4 was the best one to be stored with its score; those of 2 and 6 belong to no checkpoint.
    found = listing(tmp_path / "run")["steps"]
    assert [(row["step"], row["validation_bpb"], row["best"]) for row in found] == [(4, 2.0, True), (8, 3.5, False)]
    ((stream, _),) = streams_for(config, "validation")
    tokens = stream.read(0, 300)
    size = int((tokens[1:] < BYTES.bos).sum())
    assert {row["validation_bytes"] for row in found} == {size} and 290 < size < 300 < stream.bytes
    assert f"2.0000 on {size} bytes" in listing_table({"steps": found, "beside": []}).splitlines()[1]
    lines = [line for line in runs.lines(tmp_path / "run") if "validation_bpb" in line]
    assert [(line["step"], line["validation_bytes"]) for line in lines] == [(step, size) for step in (2, 4, 6, 8)]


def poison(monkeypatch, config, bad) -> None:
    """Let the loss of these batches be no number."""
    nats = loss.nats
    poison_NBL = np.stack([Batches(config).batch(index)[:, 1:] for index in bad])

    def poisoned(logits_BLV, targets_BL, *more):
        hit = (poison_NBL == targets_BL).all((1, 2)).any() if targets_BL.shape == poison_NBL.shape[1:] else False
        return jnp.where(hit, jnp.nan, nats(logits_BLV, targets_BL, *more))

    monkeypatch.setattr(loss, "nats", poisoned)


def test_a_bad_step_is_skipped_and_recorded_with_its_batch(tmp_path, monkeypatch):
    runs.leave_out_audit(monkeypatch.setattr)
    often = {"training.steps": 5, "training.checkpoint_every": 1, "training.keep_last": 99}
    config, workdir = runs.config(tmp_path, runs.SHALLOW | often), tmp_path / "run"
    with monkeypatch.context() as patch:
        poison(patch, config, [2])
        train(config, workdir)
    lines = [line for line in runs.lines(workdir) if "bpb" in line]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert [line["step"] for line in lines if line.get("skipped")] == [3]
    assert (lines[2]["batch"], lines[2]["reason"], lines[2]["bpb"]) == (2, "the loss is not finite", None)
    # Of a bad step there is no checkpoint: it would drop a better one.
    assert runs.stored_steps(workdir) == [1, 2, 4, 5]
    before, later = (runs.state(workdir, config, step) for step in (2, 4))
    assert (before["step"], later["step"]) == (2, 4)
    # One step was taken between them.
    assert [int(state["optimizer"][1][0].count) for state in (before, later)] == [2, 3]
    kernels = [state["params"]["trunk"]["stack"]["block"]["ffn"]["up"]["kernel"] for state in (before, later)]
    assert (kernels[0] != kernels[1]).any()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(later))


def test_too_many_bad_steps_in_a_row_stop_the_run_saved_with_advice_that_works(tmp_path, monkeypatch, capsys):
    runs.leave_out_audit(monkeypatch.setattr)
    fields, workdir = runs.SHALLOW | {"training.bad_steps": 3, "training.checkpoint_every": 3}, tmp_path / "run"
    config = runs.config(tmp_path, fields)
    argv = ["train", f"--config={runs.write_config(tmp_path / 'experiment.py', config)}", f"--workdir={workdir}"]
    with monkeypatch.context() as patch:
        # One alone, then as many as must not be; the step after them is on its way when they are counted.
        poison(patch, config, [1, 4, 5, 6, 7])
        assert cli.main(argv) == 1
    said = capsys.readouterr().err
    for words in (
        "4 steps in a row were skipped",
        "all since step 4 changed nothing",
        "saved as step 8",
        "--config.optimizer.learning_rate",
        f"continue_from={workdir}@STEP",
        "stored steps: 3, 8",
    ):
        assert words in said, said
    assert [line["step"] for line in runs.lines(workdir) if line.get("skipped")] == [2, 5, 6, 7, 8]
    # Nothing changed, so nothing is better: at once, with no further step and no further checkpoint.
    assert cli.main(argv) == 1
    assert "4 steps in a row" in capsys.readouterr().err and runs.stored_steps(workdir) == [3, 8]
    assert cli.main([*argv, "--config.optimizer.learning_rate=0.001"]) == 0
    assert [line["step"] for line in runs.lines(workdir) if "bpb" in line] == list(range(1, 13))
    assert settings.read(workdir)[1][0] == 8 and len(settings.read(workdir)) == 2


def test_a_model_that_leaks_is_not_trained_unless_the_user_insists(tmp_path, monkeypatch):
    """That the audit finds leaks has tests of its own."""
    monkeypatch.setenv("SCRATCHPATCH_CACHE", str(tmp_path / "cache"))
    leak = audit.Finding("prefix", "trigger", 7, "by 0.1")
    monkeypatch.setattr(audit, "audit", lambda config, weights: audit.AuditReport((leak,), {}, 0.0))
    fields, workdir = runs.SHALLOW | {"training.steps": 3}, tmp_path / "run"
    with pytest.raises(UserError, match="the trigger leaks at position 7 .* training.allow_leak = True"):
        train(runs.config(tmp_path, fields), workdir)
    assert runs.lines(workdir) == [] and runs.stored_steps(workdir) == []
    # Nothing is trained there yet, so the workdir is free for another config.
    train(runs.config(tmp_path, fields | {"training.allow_leak": True}), workdir)
    lines = runs.lines(workdir)
    assert len(lines) == 4 and all(line["causality"] == "INVALID" for line in lines)


def test_what_reads_the_future_is_not_trained(tmp_path):
    config = runs.config(tmp_path, {"trigger.kind": "oracle"})
    with pytest.raises(UserError, match="trigger.kind = 'oracle' reads the bytes that follow, so it cannot train"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_signal_before_the_first_step_ends_it_with_a_line_and_frees_the_workdir(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", logger="absl")
    monkeypatch.setattr(Trainer, "compile", lambda self: None)
    monkeypatch.setattr(loop._Run, "_describe", lambda *_: os.kill(os.getpid(), signal.SIGHUP))
    assert train(runs.config(tmp_path, runs.SHALLOW), tmp_path / "run") is False
    assert "stopped by SIGHUP before the first step" in caplog.text and "Traceback" not in caplog.text
    assert not list(tmp_path.glob("run/*.json")) and runs.stored_steps(tmp_path / "run") == []


def test_nothing_goes_to_the_device_unsaid(tmp_path, monkeypatch):
    runs.leave_out_audit(monkeypatch.setattr)
    monkeypatch.setattr(Trainer, "place", lambda self, rows_BM: rows_BM.reshape(self.batch.shape))
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        train(runs.config(tmp_path, runs.SHALLOW | {"training.steps": 3}), tmp_path / "run")
