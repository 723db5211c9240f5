"""The training loop: start or resume, dispatch step N, read the metrics of N-1."""

import contextlib
import json
import math
import time
from pathlib import Path

import jax
from absl import logging

import scratchpatch
from scratchpatch import background
from scratchpatch import config as config_lib
from scratchpatch.accounting import account
from scratchpatch.checkpoints import durable, run_text, settings
from scratchpatch.checkpoints import workdir as workdir_lib
from scratchpatch.checkpoints.writer import Checkpoints
from scratchpatch.data.anchor import anchored
from scratchpatch.data.batches import Batches
from scratchpatch.data.mixture import streams_for
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.distributed import processes
from scratchpatch.errors import UserError
from scratchpatch.evaluation import audit, bpb
from scratchpatch.inference.language_model import LanguageModel
from scratchpatch.inference.windows import Head
from scratchpatch.model import weights as weights_lib
from scratchpatch.progress import Progress
from scratchpatch.report.page import write_report
from scratchpatch.report.run_folder import command
from scratchpatch.training import branch, fingerprint, goodput, initial, optimizer
from scratchpatch.training.goodput import Goodput
from scratchpatch.training.measures import Measures
from scratchpatch.training.metrics import MetricsWriter, NoMetrics
from scratchpatch.training.notices import Notices, Stopped
from scratchpatch.training.step import SKIPPED, Trainer
from scratchpatch.training.watchdog import Watchdog

# Weights of so many bytes are copied to one device; see `_Run._ask`.
_COPIED_BYTES = 1 << 30
# What a start writes that says which run a workdir is.
_FIRST_FILES = {"config.json", run_text.FILE, settings.FILE}


def train(config, workdir, began: float | None = None, notices: Notices | None = None) -> bool:
    """Train `config` into `workdir`, or go on with the run that is there.

    Args:
      began: when the process started, by time.monotonic(); None: now.
      notices: what signals ask, listened to already; None: from here on.
    Returns:
      Whether the last step is done; else a signal stopped the run, saved.
    Raises:
      UserError: a bad config or source, a workdir of another experiment, a
        model that fails the audit, or training.bad_steps skipped steps in a row.
    """
    if notices is None:
        with Notices() as notices:
            return train(config, workdir, began, notices)
    began = time.monotonic() if began is None else began
    config_lib.check(config)
    config = anchored(config)
    # Before anything is written: what differs would show as a hang, or as other losses.
    versions = {"package version": scratchpatch.__version__, "JAX version": jax.__version__}
    processes.agree({f.name: repr(config_lib.get(config, f.name)) for f in config_lib.FIELDS} | versions)
    mesh = mesh_lib.make(config)
    notices.joined(jax.process_count() > 1)
    processes.first(lambda: workdir_lib.refuse_foreign(workdir))
    with workdir_lib.lock_workdir(workdir):
        processes.share(Path(workdir))
        found = {name for name in _FIRST_FILES if (Path(workdir) / name).exists()}
        try:
            processes.first(lambda: workdir_lib.guard_workdir(workdir, config))
            processes.first(lambda: durable.fetch_files(config, Path(workdir)))
            processes.first(lambda: branch.begin(config, Path(workdir)))
            processes.first(lambda: settings.begin(Path(workdir), config))
            finished = _Run(config, Path(workdir), mesh, began, notices.watchdog).run(notices)
            # Leaving ends the patience for those that still write.
            processes.meet("done")
            return finished
        except Stopped:
            _forget_failed_start(Path(workdir), found)
            logging.info("stopped by %s before the first step; the same command starts again", notices.stopped_by)
            return False
        except BaseException:
            _forget_failed_start(Path(workdir), found)
            raise


class _Run:
    def __init__(self, config, workdir: Path, mesh, began: float, watchdog: Watchdog):
        self.config, self.workdir, self.watchdog = config, workdir, watchdog
        self.trainer = Trainer(config, mesh)
        parts = mesh_lib.parts(config, mesh)
        self.batches = processes.together(lambda: Batches(config, "train", self.trainer.rows_here, parts))
        _agree_on("data", self.batches.streams)
        processes.first(lambda: run_text.guard_training(workdir, self.batches.streams))
        validation = processes.together(lambda: streams_for(config, "validation"))
        _agree_on("validation data", validation)
        self.validation = [Head(stream, max(config.training.eval_bytes // len(validation), 2)) for stream, _ in validation]
        processes.first(lambda: run_text.guard(workdir, self.batches.streams, validation))
        self.checkpoints = processes.together(lambda: Checkpoints(workdir / "checkpoints", config, config.training.keep_last))
        self.metrics = processes.together(lambda: MetricsWriter(workdir) if processes.is_first() else NoMetrics())
        self.goodput = Goodput(workdir if processes.is_first() else None, began)
        self.model = None
        self.invalid = {}

    def run(self, notices: Notices) -> bool:
        try:
            return self._train(notices)
        finally:
            # A checkpoint that failed has made room for the lines that wait.
            self.metrics.close()

    def _train(self, notices: Notices) -> bool:
        steps, abstract = self.config.training.steps, self.trainer.abstract_state()
        restored = self.checkpoints.restore_latest(abstract)
        first = restored.step if restored else 0
        processes.agree({"the checkpoint to go on from": str(first)})
        processes.first(lambda: self.metrics.truncate(first))
        if first >= steps and restored:
            logging.info("%s is finished: %d steps", self.workdir, first)
            # It is missing where the run was killed after the last checkpoint.
            processes.first(lambda: None if (self.workdir / "report.html").exists() else self._write_report())
            return True
        branched = None if restored else branch.restore(self.config, abstract)
        first = branched.step if branched else first
        now = [weight for _, weight in self.batches.streams]
        weights = processes.first(lambda: run_text.weights(self.workdir, now, first))
        self.batches.follow(weights)
        known = processes.first(lambda: settings.follow(self.workdir, self.config, first))
        self.settings = optimizer.SettingsByStep(self.config, known)
        self.measures = Measures(self.config, self.settings.learning_rate, self.trainer.mesh.devices.flatten())
        # What was changed since may mend what was bad.
        changed = max(weights[-1][0], known[-1][0])
        self.bad_in_a_row = processes.first(lambda: self.metrics.skipped_in_a_row(first, changed))
        if self.bad_in_a_row >= self.config.training.bad_steps:
            raise UserError(self._advice(first))
        # Compiling the step takes about as long as all before it, and each keeps one core busy.
        compiling = background.start(self.trainer.compile)
        begun = restored or branched
        state = begun.state if begun else self._start()
        if self.config.data.entropies:
            self.batches.open_entropies(fingerprint.of(self.config, state["frozen"]))
        self._describe(state)
        with self.goodput.spent("compile"):
            step = compiling.result()
        memory = step.memory_analysis()
        if memory:
            live = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
            live -= memory.alias_size_in_bytes
            logging.info("memory of the compiled step: %.1f MB per device", live / 1e6)
        t = self.config.training
        began = t.continue_from or t.init_from or "random weights"
        logging.info("%s", f"resumed at step {first}" if restored else f"training from {began}")
        # The first step would wait for the slowest start.
        processes.meet("the first step")
        self.goodput.mark(first)
        notices.first_step = True
        self.watchdog.moved()
        if branched:
            processes.first(lambda: self.metrics.adopt(branch.lines(self.config)))
        with Progress(total=steps, first=first, label="training", shown=processes.is_first()) as progress:
            state = self._loop(step, state, first, notices, progress)
        done = int(state["step"])
        with self.goodput.spent("checkpoint"):
            self.checkpoints.close()
        self.goodput.mark(done, ended=True)
        self.metrics.close()
        if processes.is_first() and (found := goodput.account(self.workdir)):
            logging.info("%s", goodput.text(found))
        if self.bad_in_a_row >= t.bad_steps:
            raise UserError(self._advice(done))
        if done < steps:
            by = notices.reason()
            logging.info("stopped by %s at step %d of %d; the same command goes on from there", by, done, steps)
            return False
        processes.first(self._write_report)
        return True

    def _advice(self, done: int) -> str:
        """What to do after too many bad steps, of which none changed anything."""
        stored = ", ".join(map(str, self.checkpoints.steps())) or "none"
        return (
            f"{self.bad_in_a_row} steps in a row were skipped (metrics.jsonl says why), and all since step "
            f"{done - self.bad_in_a_row} changed nothing; the state is saved as step {done}. The same command with a lower "
            "--config.optimizer.learning_rate goes on from there, or with a higher --config.training.bad_steps. Where the "
            f"parameters are spoilt, branch off before: --config.training.continue_from={self.workdir}@STEP with another "
            f"--workdir (stored steps: {stored})"
        )

    def _write_report(self) -> None:
        """The run is finished, whatever becomes of its page."""
        try:
            logging.info("report: %s", write_report(self.workdir))
        except Exception as error:
            reason = str(error) if isinstance(error, (OSError, UserError)) else f"{type(error).__name__}: {error}"
            logging.warning("no report (%s); the run is finished, and `%s` makes it", reason, command("report", self.workdir))

    def _start(self):
        """The state before step 0."""
        given = initial.load(self.config, self.trainer.shardings)
        return self.trainer.init(given) | given

    def _loop(self, step, state, first, notices, progress):
        t, pending = self.config.training, None
        clock = time.monotonic()
        due = lambda every, done: done == t.steps or (every and done % every == 0)  # noqa: E731
        for index, *rows in self.goodput.waiting(self.batches.iterate(first)):
            if index >= t.steps or self.bad_in_a_row >= t.bad_steps or notices.stop_at(index):
                break
            batch, taken = self.trainer.place(*rows), self.trainer.place_settings(self.settings.at(index))
            # What else goes between host and device says so.
            with jax.transfer_guard("disallow"):
                state, sums = step(state, batch, taken)
            if pending is not None:
                clock = self._report(*pending, clock, progress)
            pending = index, sums
            done = index + 1
            saving, asked = due(t.checkpoint_every, done), notices.save_at(done)
            if saving or asked or due(t.eval_every, done):
                clock = self._report(*pending, clock, progress)
                pending, scores = None, {}
                self.goodput.mark(done)
                if due(t.eval_every, done):
                    with self.goodput.spent("validation"):
                        scores = self._validate(state, done)
                    progress.note(f"step {done}: validation {scores['validation_bpb']:.3f} BPB")
                # While steps are bad, what is stored stays: a checkpoint of the state that they left would drop a better one.
                if asked or saving and (self.bad_in_a_row == 0 or done == t.steps):
                    with self.goodput.spent("checkpoint"):
                        self.checkpoints.save(done, state, scores)
                clock = time.monotonic()
                self.watchdog.moved()
        if pending is not None:
            self._report(*pending, clock, progress)
        with self.goodput.spent("checkpoint"):
            self.checkpoints.save(int(state["step"]), state)
        return state

    def _report(self, index, sums, clock, progress) -> float:
        """Write the metrics of a step that the device has been given time to finish."""
        with jax.transfer_guard("disallow"):
            sums = {name: float(value) for name, value in jax.device_get(sums).items()}
        self.watchdog.moved(stepped=True)
        now = time.monotonic()
        found = self.measures.of(index, sums, now - clock)
        skipped = int(sums["skipped"])
        self.bad_in_a_row = self.bad_in_a_row + 1 if skipped else 0
        if skipped:
            found |= {"skipped": True, "batch": index, "reason": SKIPPED[skipped]}
            progress.note(f"step {index + 1} was skipped: {SKIPPED[skipped]}")
        self.metrics.write(index + 1, found | self.invalid)
        progress.advance(1, int(sums["bytes"]), None if skipped else found["bpb"])
        return now

    def _validate(self, state, done: int) -> dict[str, float]:
        """What a checkpoint of this step is judged by: 'validation_bpb', and on how many bytes."""
        bpb, size = self._ask(state, lambda weights: self._validation(weights, done))
        found = {"validation_bpb": bpb, "validation_bytes": size}
        self.metrics.write(done, found | goodput.of_run(self.workdir) | self.invalid)
        return found

    def _validation(self, weights, done: int) -> tuple[float, int]:
        """(bits per byte, bytes) of the text to validate on."""
        if self.model is None:
            self.model = LanguageModel(self.config, weights, done)
        else:
            self.model = self.model.with_weights(weights, done)
        total = bpb.Tally(config_lib.vocabulary(self.config))
        for stream in self.validation:
            for part in self.model.positions(stream):
                total.add(part)
                self.watchdog.moved()
        return total.bpb if total.bpb is not None else math.nan, int(total.sums["bytes"])

    def _describe(self, state) -> None:
        """What is about to be trained, and whether it is causal."""
        logging.info("\n%s", account.text(account.account(self.config)))
        self.invalid = {} if self._ask(state, self._passes_audit) else {"causality": "INVALID"}

    def _ask(self, state, question):
        """question(weights), the same answer in every process.

        Of several processes the first answers alone, from a copy, where the model is small: the others would compile
        the same programs once more. A larger one is asked where it lies, by all.
        """
        weights = weights_lib.select(state)
        if jax.process_count() == 1 or sum(x.nbytes for x in jax.tree.leaves(weights)) > _COPIED_BYTES:
            return question(weights)
        copy = processes.local(weights, self.trainer.mesh)
        return processes.first(lambda: question(copy))

    def _passes_audit(self, weights) -> bool:
        report = audit.audit(self.config, weights)
        logging.info("%s", report.text())
        if not report.ok and not self.config.training.allow_leak:
            raise UserError(f"{report.summary()}; training.allow_leak = True would train it, marked INVALID")
        return report.ok


def _agree_on(name: str, streams) -> None:
    """Raise UserError where another process reads other text under the same sources."""
    processes.agree({name: json.dumps([(stream.spec, stream.checksum) for stream, _ in streams])})


def _forget_failed_start(workdir: Path, found: set[str]) -> None:
    """Free a workdir where nothing was trained: the config or text that failed there is about to be mended.

    found: names of the files that were there before this start, and stay.
    """
    trained = [*workdir.glob("checkpoints/*"), *(p for p in workdir.glob("metrics.jsonl") if p.stat().st_size)]
    if not trained and jax.process_index() == 0:
        for name in _FIRST_FILES - found:
            with contextlib.suppress(OSError):
                (workdir / name).unlink(missing_ok=True)
