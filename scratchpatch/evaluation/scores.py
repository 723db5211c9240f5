"""The lines that `eval --follow` writes, one for each checkpoint that it has measured. Free of JAX."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Annotated, Any, TypedDict

import msgspec

from scratchpatch import files, json_files, output
from scratchpatch.errors import UserError
from scratchpatch.json_files import Count

# Below the workdir; the lines of the run's own validation split on the unchanged model.
FOLDER, FILE = "evaluations", "follow.jsonl"


class Line(TypedDict):
    """What a line holds at least."""

    step: Count
    bpb: Annotated[float, msgspec.Meta(ge=0, le=1e30)] | None


class Scores:
    """The file of lines; a context manager, which has it for itself meanwhile. steps: those that have a line.

    Entering raises UserError where another process has the file, or a line is none; OSError where it cannot be written.
    A last line that a kill has torn is cut off.
    """

    def __init__(self, path: Path):
        self._path = path
        self.steps: set[int] = set()

    def __enter__(self) -> Scores:
        self._path.parent.mkdir(exist_ok=True)
        self._file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{self._path} is being written by another eval --follow: stop that one") from None
            except OSError:
                pass  # This disk has no locks.
            files.whole_lines(self._file)
            self.steps = {line["step"] for line in read(self._path)}
        except BaseException:
            os.close(self._file)
            raise
        return self

    def __exit__(self, *exception) -> None:
        os.close(self._file)

    def add(self, line: dict[str, Any]) -> None:
        """Append a line; once this returns, a kill of the process does not lose it."""
        rest = memoryview(f"{output.as_json(line)}\n".encode())
        while rest:
            rest = rest[os.write(self._file, rest) :]
        self.steps.add(line["step"])


def text(line: dict[str, Any]) -> str:
    """A line that `follow` gives, in words."""
    bits = "no bytes" if line["bpb"] is None else f"{line['bpb']:.4f} BPB"
    calls = f"{line['trunk_calls_per_byte']:.4f} trunk calls per byte"
    return f"step {line['step']}: {bits}, {calls}, {line['seconds']:.1f} s"


def read(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of scores; [] where there is none. Raises UserError where one is no such line."""
    try:
        with files.open_regular(path) as file:
            lines = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(json_files.parse(line, Line))
        except json_files.Malformed as error:
            raise UserError(f"{path}:{number} is no line of eval --follow ({error}): remove that line") from None
    return found
