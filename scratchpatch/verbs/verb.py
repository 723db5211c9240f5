"""What a verb of the command line is, and the flags that several of them share."""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path

from absl import flags

from scratchpatch import files, places
from scratchpatch.config_flags import parse_override
from scratchpatch.data.sources import SPECS
from scratchpatch.errors import UserError

Flags = flags.FlagValues


def _nothing(_: Flags) -> None:
    return None


@dataclasses.dataclass(frozen=True)
class Verb:
    """One verb: what its help says, which flags it has, what it runs.

    `check` raises UserError on values that are wrong together or in themselves
    (exit 2); `run` returns the exit code. `positional` names flags that may be
    given without their name.
    """

    summary: str
    usage: str
    run: Callable[[Flags], int]
    examples: tuple[str, ...]
    define: Callable[[Flags], None] = _nothing
    check: Callable[[Flags], None] = _nothing
    config: bool = False
    required: tuple[str, ...] = ()
    positional: tuple[str, ...] = ()
    details: tuple[str, ...] = ()


def to_stderr() -> contextlib.AbstractContextManager:
    return contextlib.redirect_stdout(sys.stderr)


class Told:
    """What a verb has found, said as soon as it is known, while all else that is printed goes to standard error.

    What cannot be said keeps the verb from nothing: `end` raises it.
    """

    def __init__(self):
        self._out = sys.stdout
        self._failed: OSError | UserError | None = None

    def line(self, text: str) -> None:
        """On standard output."""
        try:
            print(text, file=self._out, flush=True)
        except BrokenPipeError as error:
            self._failed = error
        except OSError as error:
            self._failed = UserError(f"standard output cannot be written: {error.strerror}")

    def file(self, path: str, text: str) -> None:
        try:
            files.write_text(path, text)
        except OSError as error:
            self._failed = UserError(f"{path} cannot be written: {error.strerror}; standard output has the result")

    def end(self) -> int:
        """The exit code of success. Raises what could not be said."""
        if self._failed is not None:
            raise self._failed
        return 0


def say(text: str) -> int:
    """Print a result; the exit code. Raises UserError where standard output cannot be written."""
    told = Told()
    told.line(text)
    return told.end()


def existing(path: str, flag: str, folder: bool = False) -> str:
    if not (os.path.isdir(path) if folder else os.path.isfile(path)):
        fix = ": scratchpatch train makes one" if flag == "workdir" else ""
        raise UserError(f"--{flag}={path}: no such {'folder' if folder else 'file'}{fix}")
    return path


def writable(path: str | None, flag: str) -> None:
    if path and not (Path(path).parent.is_dir() and not Path(path).is_dir()):
        raise UserError(f"--{flag}={path}: wanted a file in a folder that exists")


class _Path(flags.ArgumentParser):
    """A path as it is given, with the home folder for `~`; URLs too."""

    syntactic_help = "a path"

    def parse(self, argument: str) -> str:
        return places.expanded(argument)


class _Stored(_Path):
    """The path of what libraries store or read that take no other names than UTF-8."""

    def parse(self, argument: str) -> str:
        if problem := places.unstorable(argument):
            raise UserError(f"{argument} {problem}")
        return super().parse(argument)


def path_flag(values: Flags, name: str, help: str) -> None:
    """A file that is read or written."""
    flags.DEFINE(_Path(), name, None, help, flag_values=values, serializer=flags.ArgumentSerializer())


def folder_flag(values: Flags, name: str, help: str) -> None:
    """A folder of checkpoints, shards or arrays."""
    flags.DEFINE(_Stored(), name, None, help, flag_values=values, serializer=flags.ArgumentSerializer())


def workdir_flag(values: Flags) -> None:
    folder_flag(values, "workdir", "Folder of the run.")


def json_flag(values: Flags) -> None:
    flags.DEFINE_bool(
        "json",
        False,
        "Print one JSON object as the last line of standard output, and nothing else there.",
        flag_values=values,
    )


def override_flag(values: Flags) -> None:
    flags.DEFINE_multi_string(
        "override",
        [],
        "FIELD=VALUE: change a config field of the trained model, such as trigger.threshold=1.0",
        flag_values=values,
    )


def step_flag(values: Flags) -> None:
    flags.DEFINE_integer("step", None, "Step of the checkpoint; none: the newest.", lower_bound=0, flag_values=values)


def source_flag(values: Flags) -> None:
    flags.DEFINE_string(
        "source",
        None,
        f"SPEC of the documents: {SPECS}; none: the run's own.",
        flag_values=values,
    )


def split_flag(values: Flags, default: str) -> None:
    flags.DEFINE_enum(
        "split",
        default,
        ("train", "validation", "test", "all"),
        "Which documents of the source.",
        flag_values=values,
    )


def overrides(values: Flags) -> dict:
    return dict(parse_override(text) for text in values.override)
