"""Bytes as the JSON of an answer: text, log-probabilities, and the facts of each byte.

Bytes that are no text become U+FFFD in texts, as `bytes.decode(errors="replace")` makes them; a character that is
split over several steps is sent whole, with its last byte.
"""

from __future__ import annotations

import codecs
import math
import secrets
import time
from typing import Any

import numpy as np

from scratchpatch.serving.request import Request

# What OpenAI shows where a document ends; an engine's alternatives have -1 there.
END_OF_DOCUMENT = "<|endoftext|>"


class Text:
    """Decodes UTF-8 a byte at a time; `length`: characters given out so far."""

    def __init__(self):
        self._decoder, self.length = codecs.getincrementaldecoder("utf-8")("replace"), 0

    def add(self, value: int) -> tuple[str, int]:
        """The characters that a byte completes, and where in the text the byte's own character stands."""
        text = self._decoder.decode(bytes([value]))
        self.length += len(text)
        pending, _ = self._decoder.getstate()
        return text, self.length - (not pending)

    def end(self) -> str:
        """What stands for a character that was never completed."""
        text = self._decoder.decode(b"", final=True)
        self.length += len(text)
        return text


class Choice:
    """One choice of an answer as it grows, each part of which is the JSON object of a stream's event.

    log2_prompt: float64 [n], log2-probability of each byte of the prompt, where the request wants them.
    """

    def __init__(self, index: int, request: Request, prompt: bytes, log2_prompt: np.ndarray | None = None):
        self.index, self.bytes = index, 0
        self._request, self._prompt, self._log2_prompt = request, prompt, log2_prompt
        self._text = Text()

    def echo(self) -> dict[str, Any]:
        """The part that repeats the prompt."""
        part = self._part("", None)
        for n, value in enumerate(self._prompt):
            text, offset = self._text.add(value)
            part["text"] += text
            if self._log2_prompt is not None:
                # Which other bytes were likely in the prompt nobody has asked the model.
                self._add_log_probability(part, value, offset, float(self._log2_prompt[n]) * math.log(2), None)
        return part

    def part(self, progress) -> dict[str, Any] | None:
        """The part that an engine's progress on this choice makes; None where there is nothing to send yet."""
        part = self._part("", progress.finish)
        for byte in progress.bytes:
            text, offset = self._text.add(byte.value)
            part["text"] += text
            if self._request.logprobs is not None:
                self._add_log_probability(part, byte.value, offset, byte.log_probability, self._alternatives(byte))
            if self._request.trace:
                facts = {"byte": byte.value, "entropy": byte.entropy}
                part["scratchpatch"].append(facts | {"commit": byte.commit, "scratchpad": byte.scratchpad})
        self.bytes += len(progress.bytes)
        if progress.finish is not None:
            part["text"] += self._text.end()
        sent = part["text"] or progress.finish or part["logprobs"] or part.get("scratchpatch")
        return part if sent else None

    def end(self) -> dict[str, Any]:
        """The last part of a choice that was to have no bytes."""
        return self._part(self._text.end(), "length")

    def _part(self, text: str, finish: str | None) -> dict[str, Any]:
        part = {"index": self.index, "text": text, "logprobs": None, "finish_reason": finish}
        if self._request.trace:
            part["scratchpatch"] = []
        return part

    def _alternatives(self, byte) -> dict[str, float] | None:
        """The likeliest bytes, and the one that was taken; None where no alternatives are wanted."""
        if not self._request.logprobs:
            return None
        return {_token(value): nats for value, nats in [*byte.alternatives, (byte.value, byte.log_probability)]}

    def _add_log_probability(self, part, value: int, offset: int, nats: float, alternatives) -> None:
        if part["logprobs"] is None:
            part["logprobs"] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        row = {"tokens": _token(value), "token_logprobs": nats, "top_logprobs": alternatives, "text_offset": offset}
        for name, entry in row.items():
            part["logprobs"][name].append(entry)


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """One choice as a whole, of its parts in order."""
    whole = {**parts[-1], "text": "".join(part["text"] for part in parts)}
    logprobs = [part["logprobs"] for part in parts if part["logprobs"] is not None]
    if logprobs:
        whole["logprobs"] = {name: [x for part in logprobs for x in part[name]] for name in logprobs[0]}
    if "scratchpatch" in whole:
        whole["scratchpatch"] = [facts for part in parts for facts in part["scratchpatch"]]
    return whole


def frame(model: str) -> dict[str, Any]:
    """What every event of one answer has in common."""
    name = f"cmpl-{secrets.token_hex(12)}"
    return {"id": name, "object": "text_completion", "created": int(time.time()), "model": model}


def usage(request: Request, choices: list[Choice]) -> dict[str, int]:
    """How many bytes went in and out; a prompt counts once, however many choices it has."""
    prompt, completion = sum(map(len, request.prompts)), sum(choice.bytes for choice in choices)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _token(value: int) -> str:
    """A byte as OpenAI shows a token: its text, or its value where it is none."""
    if value < 0:
        return END_OF_DOCUMENT
    return chr(value) if value < 0x80 else f"bytes:\\x{value:02x}"
