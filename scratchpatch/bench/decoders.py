"""What `bench decode` times: an engine that continues prompts, and the parallel pass that reads the prefix anew.

Each is called again and again, and returns the seconds that a byte took. Weights are random, and bytes the likeliest.
"""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

from scratchpatch import config as config_lib
from scratchpatch.inference import loading, windows
from scratchpatch.inference.engine import Engine
from scratchpatch.inference.language_model import LanguageModel
from scratchpatch.inference.options import Options
from scratchpatch.model import weights as weights_lib

# Budgets are exact down to this.
_LEAST = 1 / 4096


def model(config) -> LanguageModel:
    """A model that does not end a document: its logit of BOS is 0, which some byte exceeds."""
    lm = loading.init(config)
    projection = lm.weights["params"]["decoder"]["logits"]["projection"]
    projection["kernel"] = projection["kernel"].at[:, lm.vocabulary.bos].set(0.0)
    return lm


def local(config):
    """The same model with budgets that leave a commit and a scratchpad per window, or in thousands of bytes: everything
    but the trunk.
    """
    fields = dict.fromkeys(("patching.capacity", "trigger.capacity"), max(_LEAST, 1 / config.data.window))
    return config_lib.from_flat(config_lib.flat(config) | fields)


def prompts(rows: int, size: int) -> list[bytes]:
    """Bytes of about that size; sizes differ, so that rows reach the ends of their patches at different bytes."""
    rng = np.random.default_rng(0)
    return [bytes(rng.integers(97, 123, max(size - i % 16, 0)).astype(np.uint8)) for i in range(rows)]


@dataclasses.dataclass
class Continuation:
    """Prompts that fill all places of an engine, and new bytes of each; reading the prompts is not part of the time.

    Attributes:
      size: bytes of a prompt, about.
      new: bytes to write behind each.
      share: of the engine.
      bytes, trunk_calls, slots: of one call; slots are rows of trunk calls.
      prefill_seconds, first_seconds: for all prompts; from their submission to the first bytes. The least so far.
      commits: in the cache at the end.
    """

    engine: Engine
    size: int
    new: int
    share: float = 0.0
    bytes: int = 0
    trunk_calls: int = 0
    slots: int = 0
    commits: int = 0
    prefill_seconds: float = float("inf")
    first_seconds: float = float("inf")

    def __call__(self) -> float:
        """Seconds per byte, of all rows together."""
        engine, before = self.engine, dataclasses.replace(self.engine.work)
        engine.share = self.share
        began = time.perf_counter()
        for prompt in prompts(engine.rows, self.size):
            engine.submit(prompt, Options(max_bytes=self.new))
        engine.fill()
        start = time.perf_counter()
        engine.step()
        first = time.perf_counter()
        while not engine.idle:
            engine.step()
        seconds = time.perf_counter() - start
        self.prefill_seconds = min(self.prefill_seconds, start - began)
        self.first_seconds = min(self.first_seconds, first - began)
        self.bytes, self.trunk_calls, self.slots = (
            getattr(engine.work, name) - getattr(before, name) for name in ("bytes", "trunk_calls", "slots")
        )
        self.commits = engine.commits
        return seconds / self.bytes

    def numbers(self, seconds: float) -> dict:
        """What a table says of it, given its seconds per byte."""
        prompt_bytes = sum(map(len, prompts(self.engine.rows, self.size)))
        return {
            "rows": self.engine.rows, "prompt_bytes": self.size, "new_bytes": self.new, "bytes_per_second": 1 / seconds,
            "trunk_calls_per_byte": self.slots / self.bytes,
            "rows_per_trunk_call": self.slots / max(self.trunk_calls, 1),
            "prefill_bytes_per_second": prompt_bytes / self.prefill_seconds,
            "first_bytes_milliseconds": self.first_seconds * 1e3,
            "cache_kilobytes_per_row": self.engine.cache_bytes["all"] / self.engine.rows / 1e3,
        }


class Recomputation:
    """The compiled parallel pass over the prefix, for a sample of the bytes behind a prompt."""

    def __init__(self, lm: LanguageModel, size: int, new: int, samples: int):
        self._window, self._pad, self._weights = lm.config.data.window, lm.vocabulary.pad, lm.weights
        definition, _ = weights_lib.abstract(lm.config)
        # The last byte that is read before each of the new ones, spread over all of them.
        self._positions = [size + round(i) for i in np.linspace(0, new - 1, min(samples, new))]
        tokens = [lm.vocabulary.bos, *prompts(1, size + new)[0]]
        self.rows = [self._row(np.array(tokens[: position + 1], np.int32)) for position in self._positions]
        self.new = len(self.rows)

        @jax.jit
        def choose(weights, row_L, last):
            logits_LV = weights_lib.merge(definition, weights)(row_L[None]).logits_BLV[0]
            return jnp.argmax(logits_LV[last])

        self._choose = choose

    def _row(self, tokens_T: np.ndarray) -> tuple[np.ndarray, int]:
        tokens_T = tokens_T[windows.start(len(tokens_T) - 1, self._window) :]
        length = windows.row_length(len(tokens_T), self._window)
        row_L = np.pad(tokens_T, (0, length - len(tokens_T)), constant_values=self._pad)
        return row_L, len(tokens_T) - 1

    def __call__(self) -> float:
        """Seconds per byte."""
        start = time.perf_counter()
        self.choices = [int(self._choose(self._weights, row_L, last)) for row_L, last in self.rows]
        return (time.perf_counter() - start) / self.new
