"""The problems of GSM8K as two streams, their answers' bytes, and where scratchpads fire. Legend: T tokens of a stream.
"""

import dataclasses
import re

import numpy as np

from experiments import corpora
from experiments.gsm8k.config import RATE
from scratchpatch.errors import UserError
from scratchpatch.tasks import computed
from scratchpatch.vocabulary import BYTES

# The published test split is not at hand: the last problems of the training split validate.
VALIDATION_PROBLEMS = 660
MARKS = ("=", "#### ", ">>")


@dataclasses.dataclass(frozen=True)
class Stream:
    """Attributes:
    tokens: int32 [T], BOS and bytes of problem after problem.
    answers: of each kind of `tasks.computed`, the (first, last + 1) positions of the bytes of each.
    """

    tokens: np.ndarray
    answers: dict[str, list[tuple[int, int]]]


def streams() -> tuple[Stream, Stream]:
    """Training and validation. Raises UserError where the file is not there."""
    path = corpora.folder() / "gsm8k" / "train.jsonl.gz"
    if not path.is_file():
        raise UserError(f"{path} is missing: it is train.jsonl of github.com/openai/grade-school-math, packed by gzip")
    problems = computed.read(str(path))
    return _stream(problems[:-VALIDATION_PROBLEMS]), _stream(problems[-VALIDATION_PROBLEMS:])


def _stream(problems: list[tuple[bytes, bytes]]) -> Stream:
    tokens, answers = [], {kind: [] for kind in computed.KINDS}
    for question, answer in problems:
        begin = len(tokens) + len(question) + 2
        tokens += [BYTES.bos, *question, ord("\n"), *answer]
        for span in computed.spans(answer):
            answers[span.kind].append((begin + span.start, begin + span.end))
    return Stream(np.array(tokens, np.int32), answers)


def after_marks(tokens: np.ndarray) -> np.ndarray:
    """bool [T]: positions at which the text ends with what announces an answer."""
    text = np.where(tokens < BYTES.bos, tokens, 0).astype(np.uint8).tobytes()
    fires = np.zeros(len(tokens), bool)
    for mark in MARKS:
        fires[[match.end() - 1 for match in re.finditer(re.escape(mark.encode()), text)]] = True
    return fires


class Rules:
    """Where scratchpads fire in every variant, with thresholds of the training text, whose rate is RATE."""

    def __init__(self, stream: Stream, entropy: np.ndarray, patch_bytes: int):
        # Of the places that a rule names, one in patch_bytes ends a patch, which needs no scratchpad.
        self._share = RATE * patch_bytes / (patch_bytes - 1)
        marks, jump = after_marks(stream.tokens), _jump(entropy)
        self._entropy = np.quantile(entropy, 1 - self._share)
        self._jump = np.quantile(jump, 1 - self._share)
        # Marks alone are fewer, or more: jumps of the entropy fill up the rate.
        left = max(self._share - marks.mean(), 0.0) / (1 - marks.mean())
        self._fill = np.quantile(jump[~marks], 1 - left)

    def fires(self, variant: str, tokens: np.ndarray, entropy: np.ndarray) -> np.ndarray:
        """bool [T]."""
        if variant == "entropy":
            return entropy > self._entropy
        if variant == "entropy_jump":
            return _jump(entropy) > self._jump
        if variant == "answer_start":
            return after_marks(tokens) | (_jump(entropy) > self._fill)
        if variant == "random":
            return _chance(tokens) < self._share
        return np.full(len(tokens), variant == "every")


def _jump(entropy: np.ndarray) -> np.ndarray:
    return np.diff(entropy, prepend=entropy[:1])


def _chance(tokens: np.ndarray) -> np.ndarray:
    """A number in [0, 1) from the last three bytes and the position."""
    padded = np.concatenate([[0, 0], tokens]).astype(np.uint64)
    mixed = (padded[2:] * 961 + padded[1:-1] * 31 + padded[:-2]) * 2654435761
    mixed += np.arange(len(tokens), dtype=np.uint64) * 97
    return ((mixed >> 7) % 65536) / 65536
