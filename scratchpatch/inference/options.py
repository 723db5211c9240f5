"""How one row is continued."""

import dataclasses
import math

from scratchpatch.errors import UserError
from scratchpatch.inference import utf8
from scratchpatch.output import short_repr

# The most alternatives that are reported for a byte.
MOST_LOGPROBS = 20


@dataclasses.dataclass(frozen=True)
class Options:
    """How one row is continued; `check` raises UserError where a value cannot be used.

    Sampling keeps what `top_k`, `top_p` and `min_p` all keep; `inference.sampling` says in which order, and what they
    are. At temperature 0 they change nothing.

    Attributes:
      max_bytes: the most bytes to write.
      temperature: of the softmax that bytes are drawn from; 0: the likeliest byte, and the lowest of those that tie.
      top_k: how many of the likeliest bytes may be drawn; 0: all.
      top_p: share of the probability that the likeliest bytes which may be drawn have together; 1: all.
      min_p: least probability of a byte that may be drawn, as a share of the likeliest byte's; 0: all.
      repetition_penalty: makes bytes that stand in the prompt or the output less likely (above 1) or likelier (below
        1); 1: off. Its rule is in `inference.sampling.distribution`.
      stop: byte strings at which the output ends. The one that is complete after the fewest bytes ends it, and of those
        that are complete at once the longest; none of it is part of the output. Only bytes of the output count.
      seed: of this row's draws, which depend on nothing else.
      valid_utf8: write only what continues the prompt as UTF-8 of whole characters, also where max_bytes or a stop
        string ends the output; see `inference.utf8`. Where max_bytes is too small to complete the character that the
        prompt leaves open, nothing is written.
      patch_threshold: nats, for the patchifier; None: the model's.
      scratchpad_threshold: nats, for the trigger; None: the model's.
      rate: scratchpads per byte to steer the threshold to; None: no steering.
      logprobs: how many of the likeliest bytes to report for each byte of the output.
    """

    max_bytes: int = 256
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[bytes, ...] = ()
    seed: int = 0
    valid_utf8: bool = False
    patch_threshold: float | None = None
    scratchpad_threshold: float | None = None
    rate: float | None = None
    logprobs: int = 0

    def check(self) -> None:
        """Raises UserError, in one line, for the first value that cannot be used."""
        self._whole("max_bytes", 2**31 - 1, "such as 256")
        self._whole("top_k", 2**31 - 1, "such as 40, or 0 for all bytes")
        self._whole("seed", 2**63 - 1, "such as 0")
        self._whole("logprobs", MOST_LOGPROBS, "such as 5, or 0 for none")
        self._number("temperature", lambda value: 0 <= value < math.inf, "0 or above, and finite, such as 0.8")
        self._number("top_p", lambda value: 0 < value <= 1, "above 0 and at most 1, such as 0.9")
        self._number("min_p", lambda value: 0 <= value < 1, "at least 0 and below 1, such as 0.05")
        self._number("repetition_penalty", lambda value: 0 < value < math.inf, "above 0, and finite, such as 1.1")
        self._threshold("patch_threshold")
        self._threshold("scratchpad_threshold")
        if self.rate is not None:
            self._number("rate", lambda value: 0 <= value <= 1, "from 0 to 1 scratchpads per byte, or None")
            if self.scratchpad_threshold is not None:
                raise UserError(
                    f"rate = {self.rate} steers the threshold that scratchpad_threshold = {self.scratchpad_threshold} "
                    "sets: leave one of them out"
                )
        if not isinstance(self.valid_utf8, bool):
            raise UserError(f"valid_utf8 = {short_repr(self.valid_utf8)} must be True or False")
        self._stop()

    def _whole(self, name: str, most: int, example: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
            raise UserError(f"{name} = {short_repr(value)} must be a whole number from 0 to {most}, {example}")

    def _number(self, name: str, in_range, wanted: str) -> None:
        value = getattr(self, name)
        # Comparisons with NaN are false, so that no range holds it.
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not in_range(value):
            raise UserError(f"{name} = {short_repr(value)} must be a number {wanted}")

    def _threshold(self, name: str) -> None:
        if getattr(self, name) is not None:
            wanted = "from -1e+30 to 1e+30 nats, or inf for never, or -inf for always, or None for the model's"
            self._number(name, lambda value: abs(value) <= 1e30 or abs(value) == math.inf, wanted)

    def _stop(self) -> None:
        if not isinstance(self.stop, tuple) or not all(isinstance(string, bytes) for string in self.stop):
            raise UserError(f"stop = {short_repr(self.stop)} must be a tuple of byte strings, such as (b'\\n\\n',)")
        if b"" in self.stop:
            raise UserError(f"stop = {short_repr(self.stop)} holds an empty string, which ends everything: remove it")
        if self.valid_utf8:
            for string in self.stop:
                if not utf8.is_whole(string):
                    raise UserError(
                        f"stop string {short_repr(string)} is no UTF-8 of whole characters, as valid_utf8 wants it: "
                        "complete its characters, or set valid_utf8 to False"
                    )
