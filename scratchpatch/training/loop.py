"""The training loop: start or resume, dispatch step N, read the metrics of N-1."""

import contextlib
import json
import math
import signal
import time
from pathlib import Path

import jax
import numpy as np
from absl import logging
from jax.sharding import NamedSharding, PartitionSpec

import scratchpatch
from scratchpatch import background
from scratchpatch import config as config_lib
from scratchpatch.accounting import account
from scratchpatch.data.batches import Batches
from scratchpatch.data.mixture import streams_for
from scratchpatch.errors import UserError
from scratchpatch.evaluation import audit, bpb
from scratchpatch.inference.language_model import LanguageModel
from scratchpatch.inference.windows import Head
from scratchpatch.model import weights as weights_lib
from scratchpatch.parallel import mesh as mesh_lib
from scratchpatch.parallel import processes
from scratchpatch.report.page import write_report
from scratchpatch.training import durable, fingerprint, goodput, initial, mixture, optimizer
from scratchpatch.training import workdir as workdir_lib
from scratchpatch.training.anchor import anchored
from scratchpatch.training.checkpoints import Checkpoints
from scratchpatch.training.goodput import Goodput
from scratchpatch.training.measures import Measures
from scratchpatch.training.metrics import MetricsWriter, NoMetrics
from scratchpatch.training.progress import Progress
from scratchpatch.training.step import Trainer

# Weights of so many bytes are copied to one device; see `_Run._ask`.
_COPIED_BYTES = 1 << 30


def train(config, workdir, began: float | None = None) -> bool:
    """Train `config` into `workdir`, or go on with the run that is there.

    Args:
      began: when the process started, in seconds since the epoch; None: now.
    Returns:
      Whether the last step is done; else SIGTERM stopped the run, saved.
    Raises:
      UserError: a bad config or source, a workdir of another experiment, a
        model that fails the audit, or a loss that is not finite.
    """
    began = time.time() if began is None else began
    config_lib.check(config)
    config = anchored(config)
    # Before anything is written: what differs would show as a hang, or as other losses.
    versions = {"package version": scratchpatch.__version__, "JAX version": jax.__version__}
    processes.agree({f.name: repr(config_lib.get(config, f.name)) for f in config_lib.FIELDS} | versions)
    mesh = mesh_lib.make(config)
    with workdir_lib.lock_workdir(workdir), _Stop() as stop:
        processes.share(Path(workdir))
        processes.first(lambda: workdir_lib.guard_workdir(workdir, config))
        processes.first(lambda: durable.fetch_files(config, Path(workdir)))
        try:
            finished = _Run(config, Path(workdir), mesh, began).run(stop)
            # Leaving ends the patience for those that still write.
            processes.meet("done")
            return finished
        except BaseException:
            _forget_failed_start(Path(workdir))
            raise


class _Stop:
    """Listens for SIGTERM: a preemption notice. Of several processes, JAX itself listens."""

    def __init__(self):
        self.asked = False

    def at(self, step: int) -> bool:
        """Whether to stop before this step; the same in every process."""
        return self.asked if jax.process_count() == 1 else processes.stops_at(step)

    def __enter__(self):
        if jax.process_count() > 1:
            return self
        with contextlib.suppress(ValueError):  # only the main thread can listen
            self._before = signal.signal(signal.SIGTERM, lambda *_: setattr(self, "asked", True))
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ValueError, AttributeError):
            signal.signal(signal.SIGTERM, self._before)


class _Run:
    def __init__(self, config, workdir: Path, mesh, began: float):
        self.config, self.workdir = config, workdir
        self.trainer = Trainer(config, mesh)
        parts = mesh_lib.parts(config, mesh)
        self.batches = processes.together(lambda: Batches(config, "train", self.trainer.rows_here, parts))
        _agree_on("data", self.batches.streams)
        processes.first(lambda: mixture.guard_training(workdir, self.batches.streams))
        validation = processes.together(lambda: streams_for(config, "validation"))
        _agree_on("validation data", validation)
        self.validation = [Head(stream, max(config.training.eval_bytes // len(validation), 2)) for stream, _ in validation]
        processes.first(lambda: mixture.guard(workdir, self.batches.streams, validation))
        self.checkpoints = processes.together(lambda: Checkpoints(workdir / "checkpoints", config, config.training.keep_last))
        self.metrics = processes.together(lambda: MetricsWriter(workdir) if processes.is_first() else NoMetrics())
        self.goodput = Goodput(workdir if processes.is_first() else None, began)
        self.measures = Measures(config, optimizer.schedule(config), mesh.devices.flatten())
        self.model = None
        self.invalid = {}

    def run(self, stop: _Stop) -> bool:
        steps = self.config.training.steps
        restored = self.checkpoints.restore_latest(self.trainer.abstract_state())
        first = restored.step if restored else 0
        processes.agree({"the checkpoint to go on from": str(first)})
        processes.first(lambda: self.metrics.truncate(first))
        if first >= steps and restored:
            logging.info("%s is finished: %d steps", self.workdir, steps)
            # It is missing where the run was killed after the last checkpoint.
            processes.first(lambda: None if (self.workdir / "report.html").exists() else self._write_report())
            return True
        now = [weight for _, weight in self.batches.streams]
        weights = processes.first(lambda: mixture.weights(self.workdir, now, first))
        self.batches.follow(weights)
        # Compiling the step takes about as long as all before it, and each keeps one core busy.
        compiling = background.start(self.trainer.compile)
        state = restored.state if restored else self._start()
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
        began = self.config.training.init_from or "random weights"
        logging.info("%s", f"resumed at step {first}" if restored else f"training from {began}")
        # The first step would wait for the slowest start.
        processes.meet("the first step")
        self.goodput.mark(first)
        with Progress(total=steps, first=first, label="training", shown=processes.is_first()) as progress:
            state = self._loop(step, state, first, stop, progress)
        done = int(state["step"])
        with self.goodput.spent("checkpoint"):
            self.checkpoints.close()
        self.goodput.mark(done, ended=True)
        self.metrics.close()
        if processes.is_first():
            logging.info("%s", goodput.text(goodput.account(self.workdir)))
        if done < steps:
            logging.info("stopped by SIGTERM at step %d of %d; the same command goes on from there", done, steps)
            return False
        processes.first(self._write_report)
        return True

    def _write_report(self) -> None:
        logging.info("report: %s", write_report(self.workdir))

    def _start(self):
        """The state before step 0."""
        given = initial.load(self.config, self.trainer.shardings)
        return self.trainer.init(given) | given

    def _loop(self, step, state, first, stop, progress):
        t, pending = self.config.training, None
        clock = time.monotonic()
        due = lambda every, done: done == t.steps or (every and done % every == 0)  # noqa: E731
        for index, *rows in self.goodput.waiting(self.batches.iterate(first)):
            if index >= t.steps or stop.at(index):
                break
            batch, at = self.trainer.place(*rows), self._place_index(index)
            # What else goes between host and device says so.
            with jax.transfer_guard("disallow"):
                state, sums = step(state, batch, at)
            if pending is not None:
                clock = self._report(*pending, clock, state, progress)
            pending = index, sums
            done = index + 1
            if due(t.checkpoint_every, done) or due(t.eval_every, done):
                clock = self._report(*pending, clock, state, progress)
                pending, scores = None, {}
                self.goodput.mark(done)
                if due(t.eval_every, done):
                    with self.goodput.spent("validation"):
                        scores = self._validate(state, done)
                    progress.note(f"step {done}: validation {scores['validation_bpb']:.3f} BPB")
                if due(t.checkpoint_every, done) or scores:
                    with self.goodput.spent("checkpoint"):
                        self.checkpoints.save(done, state, scores)
                clock = time.monotonic()
        if pending is not None:
            self._report(*pending, clock, state, progress)
        with self.goodput.spent("checkpoint"):
            self.checkpoints.save(int(state["step"]), state)
        return state

    def _place_index(self, index: int) -> jax.Array:
        everywhere = NamedSharding(self.trainer.mesh, PartitionSpec())
        return jax.make_array_from_process_local_data(everywhere, np.int32(index), ())

    def _report(self, index, sums, clock, state, progress) -> float:
        """Write the metrics of a step that the device has been given time to finish."""
        with jax.transfer_guard("disallow"):
            sums = {name: float(value) for name, value in jax.device_get(sums).items()}
            now = time.monotonic()
            if math.isfinite(sums["nats"]) and math.isfinite(sums["gradient_norm"]):
                found = self.measures.of(index, sums, now - clock)
                self.metrics.write(index + 1, found | self.invalid)
                progress.advance(1, int(sums["bytes"]), found["bpb"])
                return now
        self.checkpoints.save(int(state["step"]), state)
        self.checkpoints.close()
        raise UserError(
            f"the loss or its gradient is not finite in batch {index}; the state before it is saved as step "
            f"{int(state['step'])}: lower optimizer.learning_rate or look at that batch's rows"
        )

    def _validate(self, state, done: int) -> dict[str, float]:
        found = {"validation_bpb": self._ask(state, lambda weights: self._validation_bpb(weights, done))}
        self.metrics.write(done, found | goodput.of_run(self.workdir) | self.invalid)
        return found

    def _validation_bpb(self, weights, done: int) -> float:
        if self.model is None:
            self.model = LanguageModel(self.config, weights, done)
        else:
            self.model = self.model.with_weights(weights, done)
        total = bpb.Tally()
        for stream in self.validation:
            for part in self.model.positions(stream):
                total.add(part)
        return total.bpb if total.bpb is not None else math.nan

    def _describe(self, state) -> None:
        """What is about to be trained, and whether it is causal."""
        logging.info("\n%s", account.table(account.account(self.config)))
        self.invalid = {} if self._ask(state, self._passes_audit) else {"causality": "INVALID"}

    def _ask(self, state, question):
        """question(weights), the same answer in every process.

        Of several processes the first answers alone, from a copy, where the model is small: the others would compile
        the same programs once more. A larger one is asked where it lies, by all.
        """
        weights = weights_lib.of(state)
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


def _forget_failed_start(workdir: Path) -> None:
    """Free a workdir where nothing was trained: the config or text that failed there is about to be mended."""
    trained = [*workdir.glob("checkpoints/*"), *(p for p in workdir.glob("metrics.jsonl") if p.stat().st_size)]
    if not trained and jax.process_index() == 0:
        for name in ("config.json", mixture.FILE):
            (workdir / name).unlink(missing_ok=True)
