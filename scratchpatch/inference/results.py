"""The file of results of many prompts, which a stop at any moment costs no finished row. Free of JAX.

Rows end in any order. Each is appended to OUT.partial as it ends, with the number of its line; when all are there, OUT
is written in the order of the prompts, and OUT.partial is removed. OUT.about.json says then what OUT was made of. What
a row holds is of no concern here.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import msgspec

from scratchpatch import files, json_files, output
from scratchpatch.errors import UserError


class _Header(TypedDict):
    made_of: dict[str, str]


class _Row(TypedDict):
    number: Annotated[int, msgspec.Meta(ge=1)]
    row: dict[str, Any]


class _About(TypedDict):
    made_of: dict[str, str]
    sha256: str


def finished(out: Path, made_of: dict[str, str]) -> bool:
    """Whether `out` is there, made of the same things. Raises UserError where it is there, and is not: another command,
    or another hand, wrote it.

    made_of: what the results depend on, by names that an error can say.
    """
    if not os.path.lexists(out) or _beside(out, "partial").exists():
        return False
    about_path, fix = _beside(out, "about.json"), "name another --out, or remove it"
    try:
        about = json_files.read(about_path, _About)
        with files.open_regular(out) as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise UserError(f"{out} exists, and is no file of results that generate has finished: {fix}") from None
    except (json_files.Malformed, OSError) as error:
        raise UserError(f"{out} exists, and cannot be compared ({error}): {fix}") from None
    _check_same(out, about["made_of"], made_of)
    if checksum != about["sha256"]:
        raise UserError(f"{out} was changed since generate wrote it: {fix}")
    return True


def rows(out: Path) -> Iterator[dict[str, Any]]:
    """The rows of a finished file, in the order of their numbers."""
    with files.open_regular(out) as file:
        for line in file:
            yield json.loads(line)


class Results:
    """Takes the rows of one file of results; a context manager, which owns the file meanwhile.

    Raises UserError where OUT.partial was made of other things, is damaged, or is another process's; OSError where it
    cannot be written. A last line that a kill has torn is dropped.

    done: numbers of the rows that are there.
    """

    def __init__(self, out: Path, made_of: dict[str, str]):
        self._out, self._made_of, self._path = out, made_of, _beside(out, "partial")
        # Where each row's line begins in the partial file, and where the next one will.
        self._starts: dict[int, int] = {}
        self._end = 0
        if self._path.exists() and not self._path.is_file():
            raise UserError(f"{self._path} is no file: name another --out, or remove it")
        self._file = self._path.open("ab", buffering=0)
        try:
            self._lock()
            self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *exception) -> None:
        self._file.close()

    @property
    def done(self) -> set[int]:
        return set(self._starts)

    def row(self, number: int) -> dict[str, Any]:
        """The row of a number that is done."""
        with self._path.open("rb") as rows:
            rows.seek(self._starts[number])
            return json.loads(rows.readline())["row"]

    def add(self, rows: Iterable[tuple[int, dict[str, Any]]]) -> None:
        """Store rows, each with its number; once this returns, a kill of the process does not lose them."""
        for number, row in rows:
            start = self._end
            self._append({"number": number, "row": row})
            self._starts[number] = start

    def finish(self) -> None:
        """Write OUT, in order. Readers see it whole or not at all."""
        checksum = hashlib.sha256()
        with self._path.open("rb") as rows, files.replacing(self._out) as file:
            for number in sorted(self._starts):
                rows.seek(self._starts[number])
                line = _line(json.loads(rows.readline())["row"])
                checksum.update(line)
                file.write(line)
        about = {"made_of": self._made_of, "sha256": checksum.hexdigest()}
        # Until OUT.partial is gone, OUT counts as unfinished, so that a stop in between costs nothing.
        files.replace_text(_beside(self._out, "about.json"), output.as_json(about) + "\n")
        self._path.unlink()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{self._path} is being written by another process: wait for it, or stop it") from None
        except OSError:
            pass  # This disk has no locks.
        if not os.fstat(self._file.fileno()).st_nlink:
            raise UserError(f"another process has just finished {self._out}: look at it, or name another --out")

    def _read(self) -> None:
        header = _line({"made_of": self._made_of})
        with self._path.open("rb") as file:
            line = file.readline()
            if not line.endswith(b"\n") and header.startswith(line):
                # A kill has torn it before anything came after it.
                os.truncate(self._path, 0)
                self._append({"made_of": self._made_of})
                return
            _check_same(self._path, self._parsed(line, 1, _Header)["made_of"], self._made_of)
            line_number = 1
            self._end = len(line)
            while line := file.readline():
                line_number += 1
                if not line.endswith(b"\n"):
                    os.truncate(self._path, self._end)
                    return
                self._starts[self._parsed(line, line_number, _Row)["number"]] = self._end
                self._end += len(line)

    def _parsed(self, line: bytes, number: int, shape: Any) -> Any:
        try:
            return json_files.parse(line, shape)
        except json_files.Malformed as error:
            fix = "remove it, which costs its rows, or name another --out"
            raise UserError(f"{self._path}, line {number} is damaged ({error}): {fix}") from None

    def _append(self, value: dict[str, Any]) -> None:
        line = memoryview(_line(value))
        try:
            while line:
                size = self._file.write(line)
                self._end, line = self._end + size, line[size:]
        except OSError as error:
            raise OSError(error.errno, error.strerror, os.fspath(self._path)) from error


def _line(value: dict[str, Any]) -> bytes:
    return f"{output.as_json(value)}\n".encode()


def _beside(out: Path, ending: str) -> Path:
    return out.with_name(f"{out.name}.{ending}")


def _check_same(path: Path, before: dict[str, str], now: dict[str, str]) -> None:
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if names:
        differences = ", ".join(f"{name} = {before.get(name)}, not {now.get(name)}" for name in names)
        raise UserError(f"{path} was made with {differences}: name another --out, or remove it")
