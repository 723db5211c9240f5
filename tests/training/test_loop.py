"""What a run leaves and says: metrics, checkpoints, first lines, and the ways in which it refuses to go on."""

import logging
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging as absl_logging

from scratchpatch import cli
from scratchpatch.data.batches import Batches
from scratchpatch.errors import UserError
from scratchpatch.patching import triggers
from scratchpatch.training import loss, optimizer
from scratchpatch.training.loop import train
from scratchpatch.training.step import Trainer
from tests import runs

STEPS = 30
FIELDS = {"training.steps": STEPS, "training.eval_every": 10}
PER_STEP = {
    "bpb", "head_bpb", "gradient_norm", "learning_rate", "trunk_calls_per_byte", "scratchpads_per_byte",
    "bytes_per_patch", "suppressed_commits", "suppressed_scratchpads", "patching_threshold", "trigger_threshold", "bytes",
}  # fmt: skip


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
        runs.compile_quickly(patch.setattr)
        return Run(tmp_path_factory.mktemp("loop"), FIELDS)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    runs.compile_quickly(monkeypatch.setattr)


def test_every_step_has_one_line_of_finite_metrics(run):
    assert [line["step"] for line in run.training] == list(range(1, STEPS + 1))
    schedule = optimizer.schedule(run.config)
    for index, line in enumerate(run.training):
        assert line.keys() == PER_STEP | {"step", "end_of_document_nats"}
        assert all(math.isfinite(line[name]) for name in PER_STEP)
        assert line["learning_rate"] == pytest.approx(float(schedule(index)), rel=1e-6)
        targets = Batches(run.config).batch(index)[:, 1:]
        assert line["bytes"] == (targets < 256).sum()
        # A mean over the ends of documents in the batch, if there are any.
        assert (line["end_of_document_nats"] is None) == (not (targets == 256).any())
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


def test_validations_come_when_due_and_at_the_end_with_a_checkpoint_each(run):
    assert [line["step"] for line in run.validation] == [10, 20, 30]
    assert runs.stored_steps(run.workdir) == [20, 30]  # the two newest; the best is one of them
    assert (run.workdir / "report.html").exists() and any((run.workdir / "tensorboard").iterdir())


def test_the_first_lines_say_what_is_trained_and_that_it_is_causal(run):
    first = "\n".join(run.said[: run.said.index("training from random weights") + 1])
    for words in (
        "parameters", "inference FLOPs/byte", "trunk KV cache", "the causality audit passed",
        "memory of the compiled step", "MB per device",
    ):  # fmt: skip
        assert words in first, words


def test_a_loss_that_is_not_finite_stops_the_run_at_its_last_good_state(tmp_path, monkeypatch, capsys):
    runs.leave_out_audit(monkeypatch.setattr)
    config, workdir = runs.config(tmp_path), tmp_path / "run"
    bad, nats = 5, loss.nats
    poison_BL = Batches(config).batch(bad)[:, 1:]

    def poisoned(logits_BLV, targets_BL):
        return jnp.where(jnp.array_equal(targets_BL, poison_BL), jnp.nan, nats(logits_BLV, targets_BL))

    argv = ["train", f"--config={runs.write_config(tmp_path / 'experiment.py', config)}", f"--workdir={workdir}"]
    with monkeypatch.context() as patch:
        patch.setattr(loss, "nats", poisoned)
        assert cli.main(argv) == 1
    assert f"scratchpatch: the loss or its gradient is not finite in batch {bad}; " in capsys.readouterr().err
    assert [line["step"] for line in runs.lines(workdir)] == list(range(1, bad + 1))
    assert runs.stored_steps(workdir) == [bad]
    state = runs.state(workdir, config, bad)
    assert state["step"] == bad and all(np.isfinite(x).all() for x in jax.tree.leaves(state))
    # The state is the one before the bad batch: training goes on from there.
    assert cli.main(argv) == 0
    assert [line["step"] for line in runs.lines(workdir) if "bpb" in line] == list(range(1, 13))


def test_a_model_that_leaks_is_not_trained_unless_the_user_insists(tmp_path, monkeypatch):
    request = triggers.request

    def peeking(trigger, tokens_BL, start_BL, patch_start_BL, eligible_BL, *rest):
        wish_BL, threshold_BL = request(trigger, tokens_BL, start_BL, patch_start_BL, eligible_BL, *rest)
        return jnp.roll(wish_BL, -1, axis=1) & eligible_BL, threshold_BL

    monkeypatch.setattr(triggers, "request", peeking)
    fields = {"trigger.kind": "whitespace", "training.steps": 3}
    workdir = tmp_path / "run"
    with pytest.raises(UserError, match="the trigger leaks at position .* training.allow_leak = True"):
        train(runs.config(tmp_path, fields), workdir)
    assert runs.lines(workdir) == [] and runs.stored_steps(workdir) == []
    # Nothing is trained there yet, so the workdir is free for another config.
    train(runs.config(tmp_path, fields | {"training.allow_leak": True}), workdir)
    lines = runs.lines(workdir)
    assert len(lines) == 4 and all(line["causality"] == "INVALID" for line in lines)


def test_nothing_goes_to_the_device_unsaid(tmp_path, monkeypatch):
    runs.leave_out_audit(monkeypatch.setattr)
    monkeypatch.setattr(Trainer, "place", lambda self, rows_BM: rows_BM.reshape(self.batch.shape))
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        train(runs.config(tmp_path, {"training.steps": 3}), tmp_path / "run")
