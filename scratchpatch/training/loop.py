"""The training loop: start or resume, dispatch step N, read the sums of step N - 1."""

import contextlib
import math
import time
from pathlib import Path

import jax
from absl import logging

import scratchpatch
from scratchpatch import background, config as config_lib
from scratchpatch.accounting import account
from scratchpatch.checkpoints import run_text, settings
from scratchpatch.checkpoints.writer import Checkpoints
from scratchpatch.data import tokenizer
from scratchpatch.data.anchor import anchored
from scratchpatch.data.batches import Batches
from scratchpatch.data.mixture import streams_for
from scratchpatch.distributed import mesh as mesh_lib, processes
from scratchpatch.errors import UserError
from scratchpatch.evaluation import audited, bpb
from scratchpatch.inference.language_model import LanguageModel
from scratchpatch.inference.windows import Head
from scratchpatch.model import weights as weights_lib
from scratchpatch.progress import Progress
from scratchpatch.training import entropies, goodput, optimizer, start as start_lib
from scratchpatch.training.goodput import Goodput
from scratchpatch.training.metrics import Measures, MetricsWriter, packed
from scratchpatch.training.notices import Notices, Stopped
from scratchpatch.training.step import SKIPPED, Trainer
from scratchpatch.training.tasks import Abandoned, TrainingTasks

# Weights of so many bytes are copied to one device; see `_Run._ask`.
_COPIED_BYTES = 1 << 30


def train(config, workdir, began: float | None = None, notices: Notices | None = None) -> bool:
    """Train `config` into `workdir`, or go on with the run that is there: whether the last step is done. Else a signal
    stopped the run, saved. began: when the process started, by time.monotonic(). notices: what signals ask, listened to
    already. Raises UserError for a bad config or source, a workdir of another experiment, a model that fails the audit,
    or training.bad_steps skipped steps in a row.
    """
    if notices is None:
        with Notices() as notices:
            return train(config, workdir, began, notices)
    began = time.monotonic() if began is None else began
    config_lib.check(config)
    config_lib.require_causal(config, "train a model")
    config = anchored(config)
    tasks = TrainingTasks(config)
    # Before anything is written: what differs would show as a hang, or as other losses.
    versions = {"package version": scratchpatch.__version__, "JAX version": jax.__version__}
    processes.agree({f.name: repr(config_lib.get(config, f.name)) for f in config_lib.FIELDS} | versions)
    mesh = mesh_lib.make(config)
    notices.joined(jax.process_count() > 1)
    try:
        with start_lib.owned_workdir(config, Path(workdir)):
            config = tokenizer.with_copy(Path(workdir), config)
            if (done := start_lib.finished(config, Path(workdir))) is not None:
                logging.info("%s is finished: %d steps", workdir, done)
                return True
            run = _Run(config, Path(workdir), mesh, began, notices, tasks)
            # A checkpoint that failed has made room for the lines that wait.
            with contextlib.closing(run.metrics):
                finished = run.run()
            # Leaving ends the patience for those that still write.
            processes.meet("done")
            return finished
    except Stopped:
        logging.info("stopped by %s before the first step; the same command starts again", notices.stopped_by)
        return False


class _Run:
    def __init__(self, config, workdir: Path, mesh, began: float, notices: Notices, tasks: TrainingTasks):
        self.config, self.workdir, self.notices, self.tasks = config, workdir, notices, tasks
        self.trainer = Trainer(config, mesh)
        accumulation = mesh_lib.parts(config, mesh)
        self.batches = processes.together(lambda: Batches(config, "train", self.trainer.rows_here, accumulation))
        run_text.agree("data", self.batches.streams)
        processes.first(lambda: run_text.guard_training(workdir, self.batches.streams))
        validation = processes.together(lambda: streams_for(config, "validation"))
        run_text.agree("validation data", validation)
        share = config.training.eval_bytes // len(validation)
        self.validation = [Head(stream, max(stream.beginning(share), 2)) for stream, _ in validation]
        processes.first(lambda: run_text.guard(workdir, self.batches.streams, validation))
        folder, keep_last = workdir / "checkpoints", config.training.keep_last
        self.checkpoints = processes.together(lambda: Checkpoints(folder, config, keep_last))
        # The first process writes for all.
        writes = workdir if processes.is_first() else None
        self.metrics = processes.together(lambda: MetricsWriter(writes))
        self.goodput = Goodput(writes, began)
        self.model: LanguageModel | None = None
        self.invalid: dict[str, str] = {}

    def run(self) -> bool:
        """Whether the last step is done."""
        training = self.config.training
        start = start_lib.restore(self.config, self.checkpoints, self.trainer.abstract_state())
        processes.first(lambda: self.metrics.truncate(start.step))
        if start.state and start.step >= training.steps:
            logging.info("%s is finished: %d steps", self.workdir, start.step)
            return True
        self._follow_histories(start.step)
        # Compiling the step takes about as long as all before it, and each keeps one core busy.
        compiling = background.start(self.trainer.compile)
        state = start.state
        if state is None:
            given = start_lib.given_weights(self.config, self.trainer.shardings)
            state = self.trainer.init(given) | given
        if self.config.data.entropies:
            self.batches.open_entropies(entropies.fingerprint(self.config, state["frozen"]))
        self._describe(state)
        with self.goodput.spent("compile"):
            step = compiling.result()
        if memory := step.memory_analysis():
            live = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
            logging.info("memory of the compiled step: %.1f MB per device", (live - memory.alias_size_in_bytes) / 1e6)
        logging.info("%s", start.origin)
        # The first step would wait for the slowest start.
        processes.meet("the first step")
        self.goodput.mark(start.step)
        self.notices.first_step = True
        self.notices.watchdog.moved()
        if start.branches:
            processes.first(lambda: self.metrics.adopt(start_lib.branch_lines(self.config)))
        with Progress(total=training.steps, first=start.step, shown=processes.is_first()) as progress:
            state = self._loop(step, state, start.step, progress)
        done = int(state["step"])
        with self.goodput.spent("checkpoint"):
            self.checkpoints.close()
        self.goodput.mark(done, ended=True)
        self.metrics.close()
        if processes.is_first() and (seconds := goodput.account(self.workdir)):
            logging.info("%s", goodput.text(seconds))
        if self.bad_in_a_row >= training.bad_steps:
            raise UserError(self._advice(done))
        if done < training.steps:
            at = f"{self.notices.reason()} at step {done} of {training.steps}"
            logging.info("stopped by %s; the same command goes on from there", at)
        return done >= training.steps

    def _follow_histories(self, step: int) -> None:
        """Take over what the run was before this step: weights of its sources, settings, bad steps in a row."""
        now = [weight for _, weight in self.batches.streams]
        weights = processes.first(lambda: run_text.weights(self.workdir, now, step))
        self.batches.follow(weights)
        changes = processes.first(lambda: settings.follow(self.workdir, self.config, step))
        self.settings = optimizer.SettingsByStep(self.config, changes)
        self.measures = Measures(self.config, self.settings.learning_rate, self.trainer.mesh.devices.flatten())
        # What was changed since may mend what was bad.
        changed = max(weights[-1][0], changes[-1][0])
        self.bad_in_a_row = processes.first(lambda: self.metrics.skipped_in_a_row(step, changed))
        if self.bad_in_a_row >= self.config.training.bad_steps:
            raise UserError(self._advice(step))

    def _advice(self, done: int) -> str:
        stored = ", ".join(map(str, self.checkpoints.steps())) or "none"
        return (
            f"{self.bad_in_a_row} steps in a row were skipped (metrics.jsonl says why), and all since step "
            f"{done - self.bad_in_a_row} changed nothing; the state is saved as step {done}. The same command with a "
            "lower --config.optimizer.learning_rate goes on from there, or with a higher --config.training.bad_steps. "
            "Where the parameters are spoilt, branch off before: "
            f"--config.training.continue_from={self.workdir}@STEP with another --workdir (stored steps: {stored})"
        )

    def _loop(self, step, state, first_index: int, progress: Progress):
        """Take the steps from `first_index` on; the last state, which is saved."""
        # Read once: the fields of a config take microseconds.
        training, pending = self.config.training, None
        steps, bad_steps = training.steps, training.bad_steps
        intervals = (training.checkpoint_every, training.eval_every)
        # One transfer instead of one for each of the sums.
        pack = jax.jit(packed, out_shardings=mesh_lib.everywhere(self.trainer.mesh))
        self._clock = time.monotonic()
        for index, *rows in self.goodput.waiting(self.batches.iterate(first_index)):
            enough = index >= steps or self.bad_in_a_row >= bad_steps
            if enough or self.notices.stop_at(index):
                break
            batch = self.trainer.place(*rows)
            taken_with = self.trainer.place_settings(self.settings.at(index))
            # What else goes between host and device says so.
            with jax.transfer_guard("disallow"):
                state, sums = step(state, batch, taken_with)
                values = pack(sums)
            if pending is not None:
                self._record(*pending, progress)
            pending = index, sorted(sums), values
            done = index + 1
            saving, validating = (done == steps or every > 0 and done % every == 0 for every in intervals)
            asked, asking = self.notices.save_at(done), self.tasks.due(done, last=done == steps)
            if saving or asked or validating or asking:
                self._record(*pending, progress)
                pending, scores = None, {}
                self.goodput.mark(done)
                if validating:
                    with self.goodput.spent("validation"):
                        scores = self._validate(state, done)
                    progress.note(f"step {done}: validation {scores['validation_bpb']:.3f} BPB")
                # A checkpoint of the state that bad steps left would drop a better one.
                if asked or saving and (self.bad_in_a_row == 0 or done == steps):
                    with self.goodput.spent("checkpoint"):
                        self.checkpoints.save(done, state, scores)
                # The checkpoint is written in the background meanwhile.
                if asking:
                    with self.goodput.spent("tasks"):
                        self._measure_tasks(state, done)
                self._clock = time.monotonic()
                self.notices.watchdog.moved()
        if pending is not None:
            self._record(*pending, progress)
        with self.goodput.spent("checkpoint"):
            self.checkpoints.save(int(state["step"]), state)
        return state

    def _record(self, index: int, names: list[str], values: jax.Array, progress: Progress) -> None:
        """Write the metrics of a step that the device has been given time to finish. names, values: of its sums."""
        sums = dict(zip(names, jax.device_get(values).tolist(), strict=True))
        self.notices.watchdog.moved(stepped=True)
        now = time.monotonic()
        values = self.measures.of_step(index, sums, now - self._clock)
        self._clock = now
        skipped = int(sums["skipped"])
        self.bad_in_a_row = self.bad_in_a_row + 1 if skipped else 0
        if skipped:
            values |= {"skipped": True, "batch": index, "reason": SKIPPED[skipped]}
            progress.note(f"step {index + 1} was skipped: {SKIPPED[skipped]}")
        self.metrics.write(index + 1, values | self.invalid)
        progress.advance(1, int(sums["bytes"]), None if skipped else values["bpb"])

    def _validate(self, state, done: int) -> dict[str, float]:
        """What a checkpoint of this step is judged by: 'validation_bpb', and on how many bytes."""
        bits_per_byte, size = self._ask(state, lambda weights: self._validation(weights, done))
        scores = {"validation_bpb": bits_per_byte, "validation_bytes": size}
        self.metrics.write(done, scores | goodput.of_run(self.workdir) | self.invalid)
        return scores

    def _validation(self, weights, done: int) -> tuple[float, int]:
        model = self._model_of(weights, done)
        tally = bpb.Tally(model.vocabulary, model.token_bytes)
        for stream in self.validation:
            for positions in model.positions(stream):
                tally.add(positions)
                self.notices.watchdog.moved()
        return tally.bpb if tally.bpb is not None else math.nan, int(tally.sums["bytes"])

    def _measure_tasks(self, state, done: int) -> None:
        by_all = jax.process_count() > 1 and not self._is_small(weights_lib.select(state))

        def moved() -> None:
            self.notices.watchdog.moved()
            # Where all measure, the others wait in the middle of the task.
            if self.notices.stopped_by and not by_all:
                raise Abandoned

        def measure(weights) -> dict[str, float | int]:
            # The caches of its engines fill memory, and go with it.
            model = self._model_of(weights, done).with_weights(weights, done)
            return self.tasks.measure(model, self.workdir, moved)

        if numbers := self._ask(state, measure):
            self.metrics.write(done, numbers | self.invalid)

    def _model_of(self, weights, done: int) -> LanguageModel:
        """The model at this step of its training."""
        self.model = self.model.with_weights(weights, done) if self.model else LanguageModel(self.config, weights, done)
        return self.model

    def _describe(self, state) -> None:
        logging.info("\n%s", account.text(account.account(self.trainer.config)))
        self.invalid = {} if self._ask(state, self._passes_audit) else {"causality": "INVALID"}

    def _ask(self, state, question):
        """question(weights), the same answer in every process. Where the model is small, the first process answers for
        all, from a copy: the others would compile the same programs.
        """
        weights = weights_lib.select(state)
        if jax.process_count() == 1 or not self._is_small(weights):
            return question(weights)
        whole = jax.jit(lambda x: x, out_shardings=mesh_lib.everywhere(self.trainer.mesh))(weights)
        copy = jax.tree.map(lambda x: x.addressable_data(0), whole)

        def answer():
            with processes.alone():
                return question(copy)

        return processes.first(answer)

    @staticmethod
    def _is_small(weights) -> bool:
        return sum(x.nbytes for x in jax.tree.leaves(weights)) <= _COPIED_BYTES

    def _passes_audit(self, weights) -> bool:
        causal, text = audited.audit(self.trainer.config, weights)
        logging.info("%s", text)
        if not causal and not self.config.training.allow_leak:
            summary = text.partition("\n")[0]
            raise UserError(f"{summary}; training.allow_leak = True would train it, marked INVALID")
        return causal
