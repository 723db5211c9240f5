"""An engine whose bytes are a function of prompt and seed, with the interface of the real one."""

import dataclasses
import hashlib
import itertools
import math
import random
import time

import numpy as np

from scratchpatch.errors import UserError

# Text of one to four bytes per character, and a byte that is no text.
PIECES = (b"a", b" the", b"x\n", "é".encode(), "€".encode(), "😀".encode(), b"\xff")
THRESHOLD = 1.5


@dataclasses.dataclass
class Byte:
    value: int
    log_probability: float
    entropy: float
    commit: bool
    scratchpad: bool
    alternatives: list


@dataclasses.dataclass
class Progress:
    ticket: int
    bytes: list
    finish: str | None


def written(prompt: bytes, options) -> tuple[bytes, str]:
    """All bytes that follow a prompt, and why they end."""
    rng = random.Random(hashlib.sha256(prompt + b"%d" % options.seed).digest())
    text = b"".join(rng.choice(PIECES) for _ in range(options.max_bytes))[: options.max_bytes]
    ends = [text.find(stop) for stop in options.stop if stop in text]
    return (text[: min(ends)], "stop") if ends else (text, "length")


def facts(text: bytes, options) -> list[Byte]:
    """What the engine says of each byte."""
    threshold = THRESHOLD if options.scratchpad_threshold is None else options.scratchpad_threshold
    made = []
    for n, value in enumerate(text):
        entropy = math.nan if n == 0 else value % 40 / 10
        likely = [(-1, -0.5), *((value + k & 0xFF, -1.0 - k) for k in range(20))][: options.logprobs]
        made.append(Byte(value, -1.0, entropy, n % 4 == 3, entropy > threshold, likely))
    return made


def score(prompt: bytes) -> np.ndarray:
    """Log2-probabilities of a prompt's bytes."""
    return -np.arange(1.0, len(prompt) + 1)


class Engine:
    """`paused`: rows wait where they are. `failing`: the next step raises. A prompt that begins with 'bad' is
    refused. `cancelled`: tickets that were.
    """

    def __init__(self, rows: int = 4, per_step: int = 3, delay: float = 0.0):
        self.rows, self.paused, self.failing, self.cancelled, self.submitted = rows, False, False, [], []
        self._per_step, self._delay, self._tickets = per_step, delay, itertools.count()
        self._queue: list[int] = []
        self._left: dict[int, tuple[list[Byte], str]] = {}

    @property
    def idle(self) -> bool:
        return not self._queue

    @property
    def running(self) -> int:
        return min(len(self._queue), self.rows)

    @property
    def waiting(self) -> int:
        return len(self._queue) - self.running

    def submit(self, prompt: bytes, options) -> int:
        if prompt.startswith(b"bad"):
            raise UserError("this prompt cannot be read")
        text, finish = written(prompt, options)
        ticket = next(self._tickets)
        self._left[ticket] = facts(text, options), finish
        self._queue.append(ticket)
        self.submitted.append((prompt, options))
        return ticket

    def cancel(self, ticket: int) -> None:
        self.cancelled.append(ticket)
        if ticket in self._left:
            del self._left[ticket]
            self._queue.remove(ticket)

    def step(self) -> list[Progress]:
        if self.failing:
            raise RuntimeError("out of luck\nand more lines")
        time.sleep(0.001 if self.paused else self._delay)
        progress = []
        for ticket in [] if self.paused else self._queue[: self.rows]:
            left, finish = self._left[ticket]
            now, later = left[: self._per_step], left[self._per_step :]
            self._left[ticket] = later, finish
            progress.append(Progress(ticket, now, None if later else finish))
            if not later:
                del self._left[ticket]
                self._queue.remove(ticket)
        return progress
