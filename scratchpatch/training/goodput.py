"""Where a run's time went: what trained it, and what did not.

    workdir/goodput.jsonl    {"time": s since the epoch, "step": done so far, "spent": {kind: s since the line before}}

The first line of a start has "began", the last one of a run that ended by itself or by SIGTERM "ended". Kinds:

    productive    steps whose result was stored: all of the loop that is none of the others
    start         up to the loop, but for compile
    compile       waiting for the compiled step, which is made beside the start
    checkpoint    the loop waiting for a checkpoint; what is written in the background is free
    data          the loop waiting for a batch
    validation    validations
    tasks         tasks of evaluation.tasks, in runs that have any
    restart       what deaths cost: from the last line before one to the first step of the next start, and the time
                  of steps that had to be done again

After SIGTERM the run may wait for days until someone starts it: only that start counts, not the waiting. What no line
could be written about (a full disk) is missing. This module is free of JAX: the supervisor reads it too.
"""

import contextlib
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Required, TypedDict

from absl import logging
from msgspec import Meta

from scratchpatch.files import open_regular
from scratchpatch.json_files import Count, Malformed, parse
from scratchpatch.training.appended import Appended

_FILE = "goodput.jsonl"
_LOST = ("start", "compile", "checkpoint", "restart", "data", "validation")
# More of them than any clock has told.
_Seconds = Annotated[float, Meta(ge=-1e12, le=1e12)]
# Files about whose bad lines there was a warning.
_warned: set[Path] = set()


class _Line(TypedDict, total=False):
    time: Required[_Seconds]
    step: Required[Count]
    spent: Required[dict[str, _Seconds]]
    began: _Seconds
    ended: bool


class Goodput:
    """The clock of one start of a process, which `began` by time.monotonic(). workdir: None: no lines."""

    def __init__(self, workdir: Path | None, began: float):
        self._file = workdir and Appended(workdir / _FILE)
        # This host's clock is read once: it may be set anew while the run goes on.
        self._epoch = time.time() - time.monotonic()
        self._began: float | None = began
        self._line = began
        self._spent: dict[str, float] = {}

    @contextlib.contextmanager
    def spent(self, kind: str) -> Iterator[None]:
        """What happens inside is not productive."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._spent[kind] = self._spent.get(kind, 0.0) + time.monotonic() - start

    def waiting(self, batches: Iterable) -> Iterator:
        """The same batches; the time until each of them comes counts as data."""
        batches = iter(batches)
        while True:
            with self.spent("data"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def mark(self, step: int, ended: bool = False) -> None:
        """Write a line: `step` steps are done, and about to be stored."""
        now = time.monotonic()
        rest = "start" if self._began is not None else "productive"
        spent = self._spent | {rest: max(now - self._line - sum(self._spent.values()), 0.0)}
        line = {"time": now + self._epoch, "step": step, "spent": {kind: round(s, 3) for kind, s in spent.items()}}
        line |= {"began": self._began + self._epoch} if self._began is not None else {}
        line |= {"ended": True} if ended else {}
        self._began, self._line, self._spent = None, now, {}
        if self._file:
            self._file.add(f"{json.dumps(line)}\n".encode())
            if ended:
                self._file.close()


def account(workdir: str | Path, now: float | None = None) -> dict[str, float] | None:
    """Seconds of each kind over all starts of a run; None: it has no line. now: seconds since the epoch, where the run
    is known to be dead: the time since its last line is a restart too.
    """
    lines = _read(Path(workdir) / _FILE)
    if not lines:
        return None
    total = dict.fromkeys(("productive", *_LOST), 0.0)
    # Step reached, and what it took to get there.
    stored: list[tuple[int, float]] = []
    for before, line in zip([None, *lines], lines, strict=False):
        if "began" in line and before is not None:
            again = sum(seconds for step, seconds in stored if step > line["step"])
            stored = [(step, seconds) for step, seconds in stored if step <= line["step"]]
            pause = 0.0 if before.get("ended") else line["began"] - before["time"]
            # The other start may have been on a host whose clock is ahead.
            total["restart"] += again + max(line["time"] - line["began"], 0.0) + max(pause, 0.0)
            continue
        for kind, seconds in line["spent"].items():
            if kind != "productive":
                total[kind] = total.get(kind, 0.0) + max(seconds, 0.0)
        stored.append((line["step"], max(line["spent"].get("productive", 0.0), 0.0)))
    if now is not None and not lines[-1].get("ended"):
        total["restart"] += max(now - lines[-1]["time"], 0.0)
    return total | {"productive": sum(seconds for _, seconds in stored)}


def share(seconds: dict[str, float]) -> float:
    """The productive share of an account, 0 to 1."""
    return seconds["productive"] / max(sum(seconds.values()), 1e-9)


def of_run(workdir: str | Path) -> dict[str, float]:
    """As a line of metrics has it: 'goodput', the share up to the last line; {} where there is none."""
    seconds = account(workdir)
    return {"goodput": share(seconds)} if seconds else {}


def text(seconds: dict[str, float]) -> str:
    """An account in one line: goodput 87%: 1204 s productive; start 31, compile 22, ..."""
    lost = ", ".join(f"{kind} {value:.0f}" for kind, value in seconds.items() if kind != "productive")
    return f"goodput {share(seconds):.0%}: {seconds['productive']:.0f} s productive; {lost}"


def _read(path: Path) -> list[dict[str, Any]]:
    """The whole lines that are of an account; once, a warning says which others there are."""
    try:
        with open_regular(path) as file:
            lines = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    except OSError as error:
        _warn(path, f"cannot read {path}: {error.strerror}; there is no account of the run's time")
        return []
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(parse(line, _Line))
        except Malformed as error:
            _warn(path, f"{path}:{number} is no line of an account ({error}), and is left out like others of this kind")
    return records


def _warn(path: Path, what: str) -> None:
    if path not in _warned:
        _warned.add(path)
        logging.warning("%s", what)
