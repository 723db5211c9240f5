"""What a verb of the command line is, how it declares its flags, and how it answers."""

import dataclasses
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from scratchpatch import config_flags, files, output, places
from scratchpatch.data.sources import SPECS
from scratchpatch.errors import UserError

Flags = flags.FlagValues
# Defines one flag, among those that it is given as `flag_values`.
Flag = Callable[..., Any]


class Answer:
    """Gives a verb's results as soon as they are known. The verb goes on where that fails; `end` raises the failure.

    Attributes:
      stream: standard output. All else that a verb prints goes to standard error.
    """

    def __init__(self):
        self.stream = sys.stdout
        self._failure: OSError | UserError | None = None

    def line(self, text: str) -> None:
        try:
            print(text, file=self.stream, flush=True)
        except BrokenPipeError as error:
            self._failure = error
        except OSError as error:
            self._failure = UserError(f"standard output cannot be written: {error.strerror}")

    def show(self, result: dict[str, Any], values: Flags, table: Callable[[dict[str, Any]], str]) -> None:
        """Print one JSON object where the flags ask for it, else the table that is made of the result."""
        self.line(output.as_json(result) if values.json else table(result))

    def file(self, path: str, text: str) -> None:
        try:
            files.write_text(path, text)
        except OSError as error:
            self._failure = UserError(f"{path} cannot be written: {error.strerror}; standard output has the result")

    def end(self) -> None:
        if self._failure is not None:
            raise self._failure


@dataclasses.dataclass(frozen=True)
class Verb:
    """One verb of the command line.

    Attributes:
      name: what it is called by.
      text: what the help says, which is the docstring of the verb's file; `python -OO` drops it.
      run: does the work; returns the exit code, or None for success.
      flags: of this verb alone.
      check: raises UserError on values that are wrong in themselves or together (exit code 2).
      config: whether the verb takes --config, and overrides of its fields.
      required: flags that must be given.
      positional: flags that may be given without their names.
    """

    name: str
    text: str | None
    run: Callable[[Flags, Answer], int | None]
    flags: tuple[Flag, ...] = ()
    check: Callable[[Flags], None] = lambda values: None
    config: bool = False
    required: tuple[str, ...] = ()
    positional: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        return self.help()[0].partition("\n")[0]

    def help(self) -> tuple[str, str]:
        """What the help says before the flags, and the examples after them, one a line."""
        before, _, examples = (self.text or "").rstrip().partition("\n\nexamples:\n")
        return before, examples

    def define(self, values: Flags) -> None:
        for flag in self.flags:
            flag(flag_values=values)


class _Path(flags.ArgumentParser):
    """A path as it is given, with the home folder for `~`; URLs too."""

    syntactic_help = "a path"

    def parse(self, argument: str) -> str:
        return places.expanded(argument)


class _StorablePath(_Path):
    """The path of what libraries store or read that take no other names than UTF-8."""

    def parse(self, argument: str) -> str:
        if problem := places.unstorable(argument):
            raise UserError(f"{argument} {problem}")
        return super().parse(argument)


class _Override(flags.ArgumentParser):
    """`FIELD=VALUE` as a pair of the field's name and its value."""

    def parse(self, argument: str) -> tuple[str, Any]:
        return config_flags.parse_override(argument)


def text(name: str, help: str, default: str | None = None) -> Flag:
    return functools.partial(flags.DEFINE_string, name, default, help)


def texts(name: str, help: str, parser: flags.ArgumentParser | None = None) -> Flag:
    """A flag that may be given several times."""
    parser = parser or flags.ArgumentParser()
    return functools.partial(flags.DEFINE_multi, parser, flags.ArgumentSerializer(), name, [], help)


def switch(name: str, help: str, default: bool = False) -> Flag:
    return functools.partial(flags.DEFINE_bool, name, default, help)


def integer(name: str, help: str, default: int | None = None, least: int = 1, most: int | None = None) -> Flag:
    return functools.partial(flags.DEFINE_integer, name, default, help, lower_bound=least, upper_bound=most)


def number(name: str, help: str, default: float | None = None, least: float | None = None) -> Flag:
    return functools.partial(flags.DEFINE_float, name, default, help, lower_bound=least)


def choice(name: str, choices: tuple[str, ...], help: str, default: str | None = None) -> Flag:
    return functools.partial(flags.DEFINE_enum, name, default, choices, help)


def file(name: str, help: str, parser: flags.ArgumentParser | None = None) -> Flag:
    """A file that is read or written."""
    return functools.partial(flags.DEFINE, parser or _Path(), name, None, help, serializer=flags.ArgumentSerializer())


def folder(name: str, help: str) -> Flag:
    """A folder of checkpoints, shards or arrays."""
    return file(name, help, _StorablePath())


WORKDIR = folder("workdir", "Folder of the run.")
JSON = switch("json", "Print one JSON object as the last line of standard output, and nothing else there.")
STEP = integer("step", "Step of the checkpoint; none: the newest.", least=0)
SOURCE = text("source", f"SPEC of the documents: {SPECS}; none: the run's own.")
OVERRIDE = texts(
    "override", "FIELD=VALUE: change a config field of the trained model, such as trigger.threshold=1.0", _Override()
)


def split(default: str) -> Flag:
    return choice("split", ("train", "validation", "test", "all"), "Which documents of the source.", default)


def existing(values: Flags, flag: str, exists: Callable[[str], bool] = os.path.isdir) -> str:
    """The path that a flag gives. Raises UserError unless that folder exists, or that file for `os.path.isfile`."""
    path = values[flag].value
    if not exists(path):
        kind = "folder" if exists is os.path.isdir else "file"
        fix = ": scratchpatch train makes one" if flag == "workdir" else ""
        raise UserError(f"--{flag}={path}: no such {kind}{fix}")
    return path


def check_writable(values: Flags, flag: str) -> None:
    """Raise UserError where a flag gives a path that is no file in a folder that exists."""
    path = values[flag].value
    if path and not (Path(path).parent.is_dir() and not Path(path).is_dir()):
        raise UserError(f"--{flag}={path}: wanted a file in a folder that exists")
