"""Files of prompts, and their continuation side by side. Free of JAX.

A file of prompts has one JSON object on each line: `prompt`, a text, or `prompt_base64`, any bytes; `id`, which goes
into the result; and options of that row alone, by the names of the flags of `scratchpatch generate`.
"""

import base64
import binascii
import dataclasses
import difflib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import msgspec

from scratchpatch import files, json_files
from scratchpatch.errors import UserError
from scratchpatch.inference.options import Options

# The most bytes of one line.
_LONGEST_LINE = 1 << 26
_Whole = Annotated[int, msgspec.Meta(ge=0)]


class _Line(TypedDict, total=False):
    prompt: str
    prompt_base64: str
    id: str | int
    max_bytes: _Whole
    temperature: float
    top_k: _Whole
    top_p: float
    min_p: float
    repetition_penalty: float
    stop: str | list[str]
    seed: _Whole
    valid_utf8: bool
    threshold: float
    rate: float
    logprobs: _Whole


# Options that are settled for all rows have no field: patch_threshold.
_OPTIONS = _Line.__annotations__.keys() - {"prompt", "prompt_base64", "id"}


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One row to write. number: of its line, from 1. id: None where the line has none."""

    number: int
    data: bytes
    options: Options
    id: str | int | None = None


@dataclasses.dataclass(frozen=True)
class Survey:
    """A file of prompts that was read once.

    Attributes:
      count: of its lines.
      sha256: of its bytes, hexadecimal.
      dialled: number and options of the first line that turns the dial, which some models do not have; or None.
    """

    count: int
    sha256: str
    dialled: tuple[int, Options] | None


def survey(path: str | Path, defaults: Options) -> Survey:
    """Read a file of prompts to its end, one line in memory at a time, and check every line. Raises UserError, which
    names the line and its field, for the first one that cannot be used, and where there is none.
    """
    checksum, count, dialled = hashlib.sha256(), 0, None
    for prompt in read(path, defaults, checksum.update):
        count += 1
        if dialled is None and (prompt.options.scratchpad_threshold, prompt.options.rate) != (None, None):
            dialled = prompt.number, prompt.options
    if not count:
        raise UserError(f'{path} is empty: wanted a JSON object on each line, such as {{"prompt": "text"}}')
    return Survey(count, checksum.hexdigest(), dialled)


def read(path: str | Path, defaults: Options, seen: Callable[[bytes], None] | None = None) -> Iterator[Prompt]:
    """The prompts of a file, in order; `seen` is called with each line. Raises UserError as `survey` does.

    defaults: options of lines that name none. The line of number k has the seed `defaults.seed + k - 1`, as
      `LanguageModel.generate` has it, unless it names one.
    """
    with files.open_regular(path) as file:
        number = 0
        while line := file.readline(_LONGEST_LINE + 1):
            number += 1
            if seen is not None:
                seen(line)
            try:
                yield _prompt(line, number, defaults)
            except (json_files.Malformed, UserError) as error:
                raise UserError(f"{path}, line {number}: {error}") from None


def made_of(model, file: Survey, options: Options) -> dict[str, str]:
    """What the results of a file depend on, by the names of flags, for `inference.results`; of a `LanguageModel`."""
    fields = dataclasses.asdict(options)
    fields["threshold"] = fields.pop("scratchpad_threshold")
    things = {"step": model.step, "weights": model.fingerprint(), "SHA-256 of the prompts": file.sha256}
    return {name: str(value) for name, value in (things | fields).items()}


def _prompt(line: bytes, number: int, defaults: Options) -> Prompt:
    if len(line) > _LONGEST_LINE:
        raise UserError(f"it is longer than {_LONGEST_LINE >> 20} MiB: cut it")
    if not line.strip():
        raise UserError('it is blank: remove it, or continue nothing by {"prompt": ""}')
    value = json_files.parse(line, _Line)
    if unknown := sorted(value.keys() - _Line.__annotations__.keys()):
        near = difflib.get_close_matches(unknown[0], _Line.__annotations__, n=1, cutoff=0.0)[0]
        raise UserError(f"no field {unknown[0]!r}; the nearest is {near!r}")
    fields = {name: value[name] for name in _OPTIONS if name in value}
    if "threshold" in fields:
        fields["scratchpad_threshold"] = fields.pop("threshold")
    if "stop" in fields:
        strings = [fields["stop"]] if isinstance(fields["stop"], str) else fields["stop"]
        fields["stop"] = tuple(_encoded("stop", string, "leave it out") for string in strings)
    # A line's own dial takes the place of the command's, whichever of the two names that has.
    if ("rate" in fields) != ("scratchpad_threshold" in fields):
        fields = {"rate": None, "scratchpad_threshold": None} | fields
    options = dataclasses.replace(defaults, **{"seed": defaults.seed + number - 1} | fields)
    check(options)
    return Prompt(number, _data(value), options, value.get("id"))


def check(options: Options, checked: Callable[[Options], None] = Options.check) -> None:
    """Raises UserError as `checked` does, but names options as flags and lines do."""
    try:
        checked(options)
    except UserError as error:
        raise UserError(str(error).replace("scratchpad_threshold", "threshold")) from None


def _data(value: dict[str, Any]) -> bytes:
    if ("prompt" in value) == ("prompt_base64" in value):
        raise UserError("wanted one of the fields prompt, a text, and prompt_base64, any bytes")
    if "prompt" in value:
        return _encoded("prompt", value["prompt"], "use prompt_base64")
    try:
        return base64.b64decode(value["prompt_base64"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"prompt_base64: it is no base64 ({error})") from None


def _encoded(name: str, text: str, fix: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        problem = f"character {error.start} is half of a surrogate pair, which is no text"
        raise UserError(f"{name}: {problem}: {fix}") from None


@dataclasses.dataclass
class _Row:
    """What a row has written so far."""

    prompt: Prompt
    bytes: list = dataclasses.field(default_factory=list)


def continued(engine, prompts: Iterable[Prompt]) -> Iterator[tuple[list[tuple[int, dict[str, Any]]], int]]:
    """Continue prompts, as many at once as the engine (`inference.engine.Engine`) has places for.

    Prompts are taken one by one as places become free. Yields, after each step of the engine, the rows that have ended,
    as (number, what `result` says), and how many bytes were written in all rows.
    """
    prompts, rows = iter(prompts), {}
    while True:
        while engine.waiting + engine.running < engine.rows:
            if (prompt := next(prompts, None)) is None:
                break
            rows[engine.submit(prompt.data, prompt.options)] = _Row(prompt)
        if engine.idle:
            return
        ended, written = [], 0
        for progress in engine.step():
            row = rows[progress.ticket]
            row.bytes += progress.bytes
            written += len(progress.bytes)
            if progress.finish is not None:
                del rows[progress.ticket]
                ended.append((row.prompt.number, result(row.prompt, row.bytes, progress.finish)))
        yield ended, written


def result(prompt: Prompt, made: list, finish: str) -> dict[str, Any]:
    """What one row wrote, in the types of JSON.

    Args:
      made: `inference.engine.Byte`s.
      finish: 'stop' where the model ended the document or a stop string came, 'length' where max_bytes were written.
    Returns:
      id, where the prompt has one; text, or text_base64 where the bytes are no UTF-8; finish; bytes; seed; commits and
      scratchpads, as many as stand right before bytes of the output: the row's calls of the trunk, the reading of the
      prompt left out; and logprobs, where they are asked for: for each byte its value, its log-probability and the
      likeliest, as (byte, log-probability), natural logarithms; -1 is the end of the document.
    """
    data = bytes(byte.value for byte in made)
    try:
        text = {"text": data.decode()}
    except UnicodeDecodeError:
        text = {"text_base64": base64.b64encode(data).decode()}
    return {
        **({} if prompt.id is None else {"id": prompt.id}),
        **text,
        "finish": finish,
        "bytes": len(data),
        "seed": prompt.options.seed,
        "commits": sum(byte.commit for byte in made),
        "scratchpads": sum(byte.scratchpad for byte in made),
        **({"logprobs": [_logprobs(byte) for byte in made]} if prompt.options.logprobs else {}),
    }


def speed(began: float, moments: list[tuple[float, int]]) -> dict[str, float]:
    """How fast bytes were written.

    Args:
      began: a moment of `time.monotonic`, before anything was read or compiled.
      moments: (moment, bytes written until then) of the first bytes, which come together after prompts were read and
        programs were compiled, and of the end.
    Returns:
      seconds, in all; seconds_to_first; and bytes_per_second of the bytes after the first ones, or of all bytes in all
      the time where there are no others.
    """
    (first, first_count), (last, count) = moments[0], moments[-1]
    later = count > first_count
    return {
        "seconds": last - began,
        "seconds_to_first": first - began,
        "bytes_per_second": (count - first_count) / (last - first) if later else count / (last - began),
    }


def _logprobs(byte) -> dict[str, Any]:
    return {"byte": byte.value, "log_probability": byte.log_probability, "likeliest": byte.alternatives}


def same_file(one: str | Path, other: str | Path) -> bool:
    """Whether two paths lead to one file, which need not exist."""
    return os.path.realpath(one) == os.path.realpath(other)
