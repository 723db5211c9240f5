"""One tiny model for all tests of this folder, and what it says without windows.

Legend: L row positions, V vocabulary.
"""

import functools

import jax
import numpy as np

from scratchpatch.inference.language_model import LanguageModel
from scratchpatch.model import weights as weights_lib
from scratchpatch.patching import layout
from tests import tiny
from tests.evaluation.pieces import random_weights
from tests.tiny import BOS

WINDOW = 32
# Amid the entropies of these weights, so that some bytes fire.
FIELDS = {"data.window": WINDOW, "trigger.threshold": 4.0, "trigger.rate": 0.5}


@functools.lru_cache
def language_model() -> LanguageModel:
    config = tiny.config(FIELDS)
    start = layout.initial_thresholds(config)
    weights = random_weights(weights_lib.abstract(config)[1])
    weights["thresholds"] = {"patching_threshold": start.patching, "trigger_threshold": start.trigger}
    return LanguageModel(config, weights, step=7)


@functools.lru_cache
def _direct():
    definition, _ = weights_lib.abstract(language_model().config)
    return jax.jit(lambda w, tokens_BL: weights_lib.merge(definition, w)(tokens_BL))


def log2_p(tokens: list[int]) -> np.ndarray:
    """float64 [len(tokens), 257]: log2-probabilities of each next token, by one pass over one row."""
    row_L = np.full(WINDOW, 257, np.int32)
    row_L[: len(tokens)] = tokens
    logits_LV = np.asarray(_direct()(language_model().weights, row_L[None]).logits_BLV[0], np.float64)
    logits_LV = logits_LV[: len(tokens), : BOS + 1]
    logits_LV -= logits_LV.max(axis=-1, keepdims=True)
    return (logits_LV - np.log(np.exp(logits_LV).sum(axis=-1, keepdims=True))) / np.log(2)


def some_bytes(size: int, seed: int = 0) -> bytes:
    return bytes(tiny.text(np.random.default_rng(seed), size).astype(np.uint8))
