"""The `--config` flag: a config file, and overrides of its fields.

A config file is Python with a function `get_config()` that returns a `ConfigDict` (start from
`scratchpatch.config.default()` or from another file's `get_config()`). It may import from its own folder and from its
project's root, the nearest folder above it that holds a pyproject.toml. `FILE:ARGUMENT` calls `get_config(ARGUMENT)`.
The config.json of a run or of an exported model is a config file too.

Every mistake is a UserError of one line that names the file and line, or the flag, and the nearest right name.
"""

import ast
import contextlib
import linecache
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from scratchpatch import config as config_lib, config_file, files, places
from scratchpatch.config_fields import BY_NAME
from scratchpatch.errors import UserError


def load(path: str) -> ml_collections.ConfigDict:
    """The locked config that a file's `get_config()` returns, each field of its type.

    Values are not checked: see `config.check`, which comes after the overrides. Raises UserError where the file is
    missing or fails, or a field is unknown or of another type.
    """
    path = places.expanded(path)
    path, _, argument = path.partition(":") if not os.path.exists(path) else (path, "", "")
    if path.endswith(".json") and os.path.exists(path):
        return config_file.read(path)
    try:
        with files.open_regular(path) as file:
            source = file.read()
    except FileNotFoundError as error:
        raise UserError(f"config file {path} does not exist") from error
    except OSError as error:
        raise UserError(f"config file {path} cannot be read: {error.strerror}") from error
    # What the file prints is no result of a verb.
    with _import_folders(Path(path).resolve().parent), _named_line(path), contextlib.redirect_stdout(sys.stderr):
        # This is no import: Python's bytecode cache would miss a second edit within one second.
        names = {"__name__": Path(path).stem, "__file__": path}
        exec(compile(source, path, "exec"), names)
        get_config = names.get("get_config")
        if not callable(get_config):
            raise UserError(f"{path} has no function get_config(): define one that returns a config")
        config = get_config(argument) if argument else get_config()
        if not isinstance(config, ml_collections.ConfigDict):
            raise UserError(f"{path}: get_config() must return a ConfigDict, not a {type(config).__name__}")
        # The copy is locked, and each field has its own type: a file may have unlocked its config.
        return config_lib.from_flat(dict(_leaves(config, "")))


def define(flag_values: flags.FlagValues, argv: list[str]) -> None:
    """Define `--config` and the `--config.FIELD=VALUE` overrides that `argv` holds (program name first). Raises
    UserError if an override names no field, or stands before `--config`.
    """
    _check_override_names(argv)
    help_text = "Config file; --config.FIELD=VALUE after it overrides a field."
    config_flags.DEFINE_config_file("config", help_string=help_text, flag_values=flag_values, sys_argv=argv)
    # ml-collections' own parser puts a traceback in its errors and hides a missing file.
    flag_values["config"].parser = Parser(load)


def explain(error: flags.IllegalFlagValueError) -> str:
    """absl's words on a bad flag value; for a config field, the type that it takes instead."""
    override = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error), flags=re.DOTALL)
    if override is None or override[1] not in BY_NAME:
        return str(error)
    name, value = override.groups()
    default = BY_NAME[name].default
    kind = type(default).__name__
    return f"--config.{name}={value[:200]}: the field takes a value of type {kind}, such as {default!r}"


def parse_override(text: str) -> tuple[str, Any]:
    """`'trigger.threshold=1.0'` -> `('trigger.threshold', 1.0)`, checked against the fields' names and types."""
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--override={text}: wanted FIELD=VALUE, such as trigger.threshold=1.0")
    parsed = _literal(value)
    if name in BY_NAME and isinstance(BY_NAME[name].default, str) and not isinstance(parsed, str):
        parsed = value
    config = config_lib.default()
    config_lib.set_field(config, name, parsed)
    return name, config_lib.get(config, name)


def _literal(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


class Parser(flags.ArgumentParser):
    """Parses a flag's value by a function, which raises UserError where the value is wrong."""

    def __init__(self, parse: Callable[[str], Any]):
        self.parse = parse


def _check_override_names(argv: list[str]) -> None:
    config_given = False
    for argument in argv[1:]:
        if argument == "--":
            break
        config_given = config_given or re.match(r"--?config(=|$)", argument) is not None
        override = re.match(r"--?(?:no)?config\.([^=]*)", argument)
        if override and not config_given:
            raise UserError(f"{argument} overrides a config: give --config=FILE before it")
        if override and override[1] not in BY_NAME:
            near = config_lib.nearest(override[1])
            raise UserError(f"--config has no field {override[1]!r}; the nearest is --config.{near}")


def _leaves(config: ml_collections.ConfigDict, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


@contextlib.contextmanager
def _import_folders(folder: Path) -> Iterator[None]:
    root = next((f for f in (folder, *folder.parents) if (f / "pyproject.toml").exists()), folder)
    before = list(sys.path)
    sys.path[:0] = dict.fromkeys((str(folder), str(root)))
    try:
        yield
    finally:
        sys.path[:] = before


@contextlib.contextmanager
def _named_line(path: str) -> Iterator[None]:
    """Turn whatever a config file raises into a UserError that names its line, sys.exit() too."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except SyntaxError as error:
        at = f"{error.filename or path}:{error.lineno}" if error.lineno else path
        raise UserError(f"{at}: {error.msg}") from error
    except BaseException as error:
        frames = reversed(traceback.extract_tb(error.__traceback__))
        line = next((frame.lineno for frame in frames if frame.filename == path), None)
        reason = _reason(error, linecache.getline(path, line) if line else "")
        at = f"{path}:{line}" if line else path
        raise UserError(reason if reason.startswith(path) else f"{at}: {reason}") from error


def _reason(error: BaseException, source: str) -> str:
    if isinstance(error, UserError):
        return str(error)
    inner = error.args[0] if error.args else ""
    # An AttributeError of a ConfigDict holds the KeyError that it came from.
    try:
        text = str(inner.args[0] if isinstance(inner, KeyError) and inner.args else inner)
    except Exception:  # An exception of the file's own may be unable to say what it is.
        text = ""
    if missing := re.match(r"Key \"(\w+)\" does not exist|'(\w+)'\nDid you mean", text):
        key = missing[1] or missing[2]
        # The message names the last part only; the line of source has the path before it.
        dotted = re.search(rf"\w+\.((?:\w+\.)*{key}(?:\.\w+)*)\b", source)
        name = dotted[1] if dotted else key
        return f"config has no field {name!r}; the nearest is {config_lib.nearest(name)!r}"
    return ": ".join([type(error).__name__, *(line[:500] for line in text.splitlines()[:1])])
