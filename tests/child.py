"""`scratchpatch ARGV` in a process of its own, which gets a signal at a chosen moment."""

import atexit
import contextlib
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

# Imported once by the process that the children are forked from; none of them starts a thread or a backend of JAX.
_PRELOADED = [
    "flax.nnx",
    "grain",
    "jax.numpy",
    "matplotlib.figure",
    "ml_collections",
    "optax",
    "orbax.checkpoint",
    "scratchpatch.report.page",
    "scratchpatch.training.loop",
    "tensorboardX",
]


def run(argv: list[str], log: Path, moment: tuple[str, int] | None = None, sent: int = signal.SIGKILL) -> int:
    """The exit code, negative where a signal ended it; what it prints is appended to `log`.

    Args:
      moment: the process sends itself the signal `sent` there, see `_MOMENTS`; None: never.
    """
    process = _forked(_main, argv, str(log), moment, int(sent))
    process.join()
    return process.exitcode


class Started:
    """A Python program, as text, in a process of its own, with so many devices; what it prints is written to `log`."""

    def __init__(self, program: str, argv: list[str], log: Path, devices: int):
        self._log = log
        self._process = _forked(_program, program, argv, str(log), devices)

    def runs(self) -> bool:
        return self._process.is_alive()

    def send(self, number: int) -> None:
        """Send a signal."""
        os.kill(self._process.pid, number)

    def end(self, seconds: float) -> tuple[int | None, str]:
        """Exit code and output; None where it goes on after so many seconds."""
        self._process.join(seconds)
        return self._process.exitcode, self._log.read_text()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


def _forked(target, *arguments):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def _print_to(log: str) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)


def _program(program: str, argv: list[str], log: str, devices: int) -> None:
    _print_to(log)
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    sys.argv = ["-c", *argv]
    try:
        exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})
    finally:
        # JAX leaves the other processes there; a forked process does not do it by itself.
        atexit._run_exitfuncs()


def _main(argv: list[str], log: str, moment: tuple[str, int] | None, sent: int) -> None:
    _print_to(log)
    from scratchpatch import cli
    from tests import runs

    runs.leave_out_audit()
    if moment:
        name, step = moment
        _MOMENTS[name](step, lambda: os.kill(os.getpid(), sent))
    sys.exit(cli.main(argv))


def _after_line(step: int, strike) -> None:
    """A training step's metrics are written, and no checkpoint is being saved."""
    from scratchpatch.training.metrics import MetricsWriter

    write = MetricsWriter.write

    def strike_then(self, at, values):
        write(self, at, values)
        if at == step and "bpb" in values:
            while list(self._path.parent.glob("checkpoints/*.partial")):
                time.sleep(0.01)
            strike()

    MetricsWriter.write = strike_then


def _after_validation(step: int, strike) -> None:
    """A validation's line is written: after the last step, the last line of all."""
    from scratchpatch.training.metrics import MetricsWriter

    write = MetricsWriter.write

    def strike_then(self, at, values):
        write(self, at, values)
        if at == step and "validation_bpb" in values:
            strike()

    MetricsWriter.write = strike_then


def _while_saving(step: int, strike) -> None:
    """The arrays of a checkpoint are being written."""
    from scratchpatch.checkpoints.writer import Checkpoints

    finish = Checkpoints._finish

    def strike_first(self, at, about, response):
        if at == step:
            strike()
        finish(self, at, about, response)

    Checkpoints._finish = strike_first


def _before_renaming(step: int, strike) -> None:
    """All files of a checkpoint are written, but it does not have its name yet."""
    from scratchpatch.checkpoints import format

    write = format.write_about

    def strike_then(path, *described):
        write(path, *described)
        if path.name == f"{step}.partial":
            strike()

    format.write_about = strike_then


def _while_copying(step: int, strike) -> None:
    """A piece of a checkpoint has been copied to the durable tier."""
    from scratchpatch.checkpoints import durable

    copy = durable.copy

    def strike_within(path, into, moved):
        copy(path, into, (lambda _: strike()) if path.name == str(step) else moved)

    durable.copy = strike_within


def _while_removing(step: int, strike) -> None:
    """A checkpoint that is not kept is half removed."""
    from scratchpatch.checkpoints import writer as checkpoints

    remove = checkpoints.shutil.rmtree

    def strike_first(path, ignore_errors=False):
        if Path(path).name == f"{step}.deleted" and Path(path).exists():
            with contextlib.suppress(StopIteration):
                next(p for p in Path(path).rglob("*") if p.is_file()).unlink()
            strike()
        remove(path, ignore_errors=ignore_errors)

    checkpoints.shutil.rmtree = strike_first


def _in_a_part(number: int, strike) -> None:
    """Half of a part of some entropies is written; parts are of a window or two."""
    from scratchpatch.data.entropies import Writer
    from scratchpatch.training import entropies

    append, calls = Writer.append, []
    entropies.GROUP_POSITIONS = 64

    def strike_within(self, values_T):
        calls.append(None)
        if len(calls) == number:
            append(self, values_T[: len(values_T) // 2])
            strike()
        append(self, values_T)

    Writer.append = strike_within


def _while_running_a_task(number: int, strike) -> None:
    """Some documents of a task are in a run, and the task is not finished."""
    from scratchpatch.preparation import plan, tasks

    plan.TASK_BYTES = 1
    _after_call(tasks, "_write_run", number, strike)


def _before_a_summary(number: int, strike) -> None:
    """The files of a shard have their names, and nothing says that it is finished."""
    _before_writing(number, strike, "/shards/")


def _after_meta(number: int, strike) -> None:
    """The folder is finished, and the work folder is still there."""
    _before_writing(number, strike, "meta.json", after=True)


def _before_writing(number: int, strike, part: str, after: bool = False) -> None:
    from scratchpatch.data import paths
    from scratchpatch.preparation import plan

    write, calls = paths.write_text, []
    plan.TASK_BYTES = 1

    def strike_at(path, text):
        calls.extend([None] * (part in path))
        if after:
            write(path, text)
        if part in path and len(calls) == number:
            strike()
        if not after:
            write(path, text)

    paths.write_text = strike_at


def _between_files(number: int, strike) -> None:
    """A shard's first files have their names, and the next ones do not."""
    from scratchpatch.data import paths
    from scratchpatch.preparation import plan

    plan.TASK_BYTES = 1
    _after_call(paths, "publish", number, strike)


def _after_rows(number: int, strike) -> None:
    """Some rows of a file of prompts have ended and are stored, and others are being continued."""
    from scratchpatch.inference.results import Results

    _after_call(Results, "add", number, strike)


def _after_call(module, name: str, number: int, strike) -> None:
    """Just after the `number`-th call of a function of a module or a class."""
    function, calls = getattr(module, name), []

    def strike_then(*arguments):
        function(*arguments)
        calls.append(None)
        if len(calls) == number:
            strike()

    setattr(module, name, strike_then)


_MOMENTS = {
    "line": _after_line,
    "validation": _after_validation,
    "saving": _while_saving,
    "renaming": _before_renaming,
    "copying": _while_copying,
    "removing": _while_removing,
    "part": _in_a_part,
    "run": _while_running_a_task,
    "shard": _before_a_summary,
    "publish": _between_files,
    "meta": _after_meta,
    "rows": _after_rows,
}
