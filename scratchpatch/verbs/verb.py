"""What a verb of the command line is, how it declares its flags, and how it answers."""

import dataclasses
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags

from scratchpatch import files, output, places
from scratchpatch.config_flags import Parser, parse_override
from scratchpatch.data.sources import SPECS
from scratchpatch.errors import UserError

Flags = flags.FlagValues
# Defines one flag, among those that it is given as `flag_values`.
Flag = Callable[..., Any]
_SERIALIZER = flags.ArgumentSerializer()


class Answer:
    """Gives a verb's results on `stream`, standard output, as soon as they are known; all else that a verb prints goes
    to standard error. The verb goes on where that fails, and `end` raises the failure.
    """

    def __init__(self):
        self.stream = sys.stdout
        self._failure: OSError | UserError | None = None
        self.muted = False

    def mute(self) -> None:
        """Give nothing from here on: another process answers for all."""
        self.muted = True

    def alone(self) -> None:
        """From here on nothing else of this process reaches standard output, libraries in C included."""
        self.stream = output.alone(self.stream)

    def line(self, text: str) -> None:
        if self.muted:
            return
        try:
            print(text, file=self.stream, flush=True)
        except BrokenPipeError as error:
            self._failure = error
        except OSError as error:
            self._failure = UserError(f"standard output cannot be written: {error.strerror}")

    def piece(self, data: str | bytes) -> None:
        """Give a part of a result that comes part by part, without a line's end; bytes go out as they are. Unlike the
        others, this raises where it fails, for there is no use in going on.
        """
        if self.muted:
            return
        try:
            if isinstance(data, str):
                print(data, end="", file=self.stream, flush=True)
            else:
                self.stream.flush()
                self.stream.buffer.write(data)
                self.stream.buffer.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UserError(f"standard output cannot be written: {error.strerror}") from error

    def show(self, result: dict[str, Any], values: Flags, table: Callable[[dict[str, Any]], str]) -> None:
        """Print one JSON object where the flags ask for it, else the table that is made of the result."""
        self.line(output.as_json(result) if values.json else table(result))

    def file(self, path: str, text: str) -> None:
        if self.muted:
            return
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
      text: what the help says, which is the docstring of the verb's file; `python -OO` drops it.
      run: does the work; returns the exit code, or None for success.
      check: raises UserError on values that are wrong in themselves or together (exit code 2).
      config: whether the verb takes --config, and overrides of its fields.
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


def _storable(path: str) -> str:
    """The path of what libraries store or read that take no other names than UTF-8."""
    if problem := places.unstorable(path):
        raise UserError(f"{path} {problem}")
    return places.expanded(path)


def _flag(define: Callable, name: str, help: str, default: Any = None, **options: Any) -> Flag:
    return partial(define, name=name, help=help, default=default, **options)


text = partial(_flag, flags.DEFINE_string)
number = partial(_flag, flags.DEFINE_float)
integer = partial(_flag, flags.DEFINE_integer, lower_bound=1)
choice = partial(_flag, flags.DEFINE_enum)
switch = partial(_flag, flags.DEFINE_bool, default=False)
# A flag whose value its `parser`, a `config_flags.Parser`, makes.
parsed = partial(_flag, flags.DEFINE, serializer=_SERIALIZER)
# A flag that may be given several times.
repeated = partial(_flag, flags.DEFINE_multi, default=[], parser=flags.ArgumentParser(), serializer=_SERIALIZER)
# A file that is read or written, and a folder of checkpoints, shards or arrays; `~` means the home folder.
file = partial(parsed, parser=Parser(places.expanded))
folder = partial(parsed, parser=Parser(_storable))

WORKDIR = folder("workdir", "Folder of the run.")
JSON = switch("json", "Print one JSON object as the last line of standard output, and nothing else there.")
STEP = integer("step", "Step of the checkpoint; none: the newest.", lower_bound=0)
SOURCE = text("source", f"SPEC of the documents: {SPECS}; none: the run's own.")
OVERRIDE = repeated("override", "FIELD=VALUE: change a config field of the trained model, such as "
    "trigger.threshold=1.0", parser=Parser(parse_override))
split = partial(choice, "split", "Which documents of the source.", enum_values=("train", "validation", "test", "all"))


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
