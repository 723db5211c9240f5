"""A request for completions: OpenAI's fields, whose tokens are bytes here, and ours beside them.

null stands for a field's default wherever a field is named. Whatever is not understood is refused by its name, so that
nobody reads an answer to another question.
"""

from __future__ import annotations

import dataclasses
import re
import secrets
from typing import Annotated, Any

import msgspec

from scratchpatch import json_files, output
from scratchpatch.errors import UserError
from scratchpatch.inference.options import Options
from scratchpatch.serving.refusal import Refused

# What OpenAI's fields mean where they are left out.
_MAX_TOKENS, _TEMPERATURE = 16, 1.0
# The most stop strings, and the most alternatives of a byte, that OpenAI's fields take.
_STOPS, _ALTERNATIVES = 4, 5
# Seeds are drawn below this where none is given.
_SEEDS = 1 << 31

_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
_Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one server accepts.

    Attributes:
      body: bytes of a request.
      body_seconds: within which those must come.
      queue: rows that wait beside those that run.
      prompts: prompts of a request.
      n: choices of a prompt.
      max_tokens: bytes of a choice.
    """

    body: int = 1 << 20
    body_seconds: float = 30.0
    queue: int = 256
    prompts: int = 64
    n: int = 16
    max_tokens: int = 1 << 16


USUAL = Limits()


class _StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    include_usage: bool | None = None
    # Bytes of padding, which OpenAI adds against listeners; there are none here.
    include_obfuscation: bool | None = None


class _Fields(msgspec.Struct):
    """The JSON object of a request."""

    model: str | None = None
    # All of one kind: texts, or bytes, or lists of bytes.
    prompt: str | list[str | _Byte | list[_Byte]] | None = None
    max_tokens: _Count | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: Annotated[int, msgspec.Meta(ge=1)] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=_ALTERNATIVES)] | None = None
    echo: bool | None = None
    stop: str | list[str] | None = None
    seed: _Count | None = None
    user: str | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    best_of: int | None = None
    suffix: str | None = None
    logit_bias: dict[str, float] | None = None
    # Ours.
    threshold: float | None = None
    patch_threshold: float | None = None
    rate: float | None = None
    top_k: _Count | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    valid_utf8: bool | None = None
    trace: bool | None = None


# Fields that go on to the sampling, under the names that `Options` has for them.
_OPTIONS = {
    "top_p": "top_p",
    "threshold": "scratchpad_threshold",
    "patch_threshold": "patch_threshold",
    "rate": "rate",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "valid_utf8": "valid_utf8",
}
_FIELDS_OF_OPTIONS = {option: field for field, option in _OPTIONS.items()} | {"max_bytes": "max_tokens"}


@dataclasses.dataclass(frozen=True)
class Request:
    """A checked request.

    Attributes:
      model: the name of the model that is wanted; None: whichever there is.
      prompts: one or several.
      options: one for each choice of a prompt; their seeds differ.
      logprobs: alternatives of each byte that are wanted; None where no log-probabilities are.
      usage: whether a stream ends with the numbers of bytes.
      trace: whether the facts of each byte are wanted: its value, entropy, commit and scratchpad.
    """

    model: str | None
    prompts: tuple[bytes, ...]
    options: tuple[Options, ...]
    stream: bool
    usage: bool
    logprobs: int | None
    echo: bool
    trace: bool

    @property
    def rows(self) -> list[tuple[bytes, Options]]:
        """Prompt and options of each choice, in the order of the choices' indices."""
        return [(prompt, options) for prompt in self.prompts for options in self.options]

    @property
    def max_bytes(self) -> int:
        return self.options[0].max_bytes


def read(body: bytes, limits: Limits) -> Request:
    """The request that a body holds. Raises Refused with status 400, which names the field and the fix."""
    fields = _fields(body)
    _refuse_what_there_is_not(fields)
    n, max_tokens = fields.n or 1, _MAX_TOKENS if fields.max_tokens is None else fields.max_tokens
    if n > limits.n:
        raise _bad("n", f"{n} choices: at most {limits.n}")
    if fields.best_of not in (None, n):
        raise _bad("best_of", f"{fields.best_of}: choices are not ranked here, leave it out or give n's value {n}")
    if max_tokens > limits.max_tokens:
        raise _bad("max_tokens", f"{max_tokens} bytes: at most {limits.max_tokens}")
    sampling = {name: getattr(fields, field) for field, name in _OPTIONS.items() if getattr(fields, field) is not None}
    sampling["temperature"] = _TEMPERATURE if fields.temperature is None else fields.temperature
    seed = secrets.randbelow(_SEEDS) if fields.seed is None else fields.seed
    common = Options(max_bytes=max_tokens, stop=_stop(fields), logprobs=fields.logprobs or 0, **sampling)
    options = [dataclasses.replace(common, seed=seed + i) for i in range(n)]
    try:
        # The seeds differ alone, and the last one is the largest.
        options[-1].check()
    except UserError as error:
        raise refusal_of(error) from None
    stream_options = fields.stream_options or _StreamOptions()
    return Request(
        model=fields.model, prompts=_prompts(fields, limits), options=tuple(options), stream=bool(fields.stream),
        usage=bool(stream_options.include_usage), logprobs=fields.logprobs, echo=bool(fields.echo),
        trace=bool(fields.trace),
    )


def refusal_of(error: UserError) -> Refused:
    """What a client is told where options or prompts are wrong: the field has its name in requests."""
    message = re.sub(r"\w+", lambda word: _FIELDS_OF_OPTIONS.get(word[0], word[0]), str(error))
    field = message.partition(" ")[0]
    return Refused(400, message, field if field in _Fields.__struct_fields__ else None)


def _fields(body: bytes) -> _Fields:
    try:
        value = json_files.parse(body, dict[str, Any])
    except json_files.Malformed as error:
        raise Refused(400, f"the body is refused: {error}") from None
    for name in value:
        if name not in _Fields.__struct_fields__:
            shown = output.one_line(name, 100)
            raise Refused(400, f"unknown field {shown!r}; there are {', '.join(_Fields.__struct_fields__)}", shown)
    try:
        return msgspec.convert(value, _Fields)
    except msgspec.ValidationError as error:
        reason, _, where = str(error).replace("`", "").partition(" - at $.")
        name = where.partition(".")[0].partition("[")[0] or None
        raise Refused(400, f"{where}: {reason}" if where else reason, name) from None


def _refuse_what_there_is_not(fields: _Fields) -> None:
    for name in ("presence_penalty", "frequency_penalty"):
        if getattr(fields, name):
            raise _bad(name, "there is none here, leave it out; repetition_penalty is what there is")
    if fields.suffix:
        raise _bad("suffix", "text is not inserted here, leave it out")
    if fields.logit_bias:
        raise _bad("logit_bias", "there is none here, leave it out")
    if fields.stream_options is not None and not fields.stream:
        raise _bad("stream_options", "only streams have options: set stream to true")


def _prompts(fields: _Fields, limits: Limits) -> tuple[bytes, ...]:
    given = "" if fields.prompt is None else fields.prompt
    if given == []:
        raise _bad("prompt", "an empty list: give a text, a list of byte values, or a list of those")
    if isinstance(given, list) and len({type(one) for one in given}) > 1:
        raise _bad("prompt", "texts, byte values and lists are mixed: give a list of one kind")
    prompts = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
    if len(prompts) > limits.prompts:
        raise _bad("prompt", f"{len(prompts)} prompts: at most {limits.prompts} in one request")
    return tuple(_encoded("prompt", one) if isinstance(one, str) else bytes(one) for one in prompts)


def _stop(fields: _Fields) -> tuple[bytes, ...]:
    given = [] if fields.stop is None else [fields.stop] if isinstance(fields.stop, str) else fields.stop
    if len(given) > _STOPS:
        raise _bad("stop", f"{len(given)} strings: at most {_STOPS}")
    if "" in given:
        raise _bad("stop", "an empty string would end every text, leave it out")
    return tuple(_encoded("stop", one) for one in given)


def _encoded(name: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        fix = "; give the prompt as a list of byte values" if name == "prompt" else ""
        raise _bad(name, f"half of a surrogate pair is no text{fix}") from None


def _bad(name: str, reason: str) -> Refused:
    return Refused(400, f"{name}: {reason}", name)
