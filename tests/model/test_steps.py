"""Reading a few bytes at a time says what the pass over whole rows says: the same decisions, the same logits.

Rows hold several documents, of which one begins inside a document, and end in PAD; they are longer than the local
windows and than chunks of the controller, and budgets refuse requests. `tests/patching/test_step.py` has the decisions
of every patchifier, trigger, budget and controller; here every pooling, decoder, encoder and source of entropies is
met with one or two of them, not each with each.

Legend: B rows, L positions, C positions that are read at once, V vocabulary.
"""

import functools
import json

import jax
import numpy as np
import pytest

from scratchpatch import config as config_lib
from scratchpatch.errors import UserError
from scratchpatch.kernels import blocked
from scratchpatch.model import weights as weights_lib
from scratchpatch.model.steps import Steps
from tests import tiny, tokens
from tests.evaluation.pieces import HEADLESS, SEPARATE, TRUNKLESS

PAD, CHUNK = tiny.PAD, 24
CROSS = {"model.decoder.injection": "cross_attention"}
BLT = {
    **CROSS,
    "model.pooling.kind": "max_query",
    "model.pooling.queries": 2,
    "model.cross_residual": 2,
    "model.encoder.ngrams": (3, 4),
    "model.encoder.ngram_functions": 2,
    "model.encoder.ngram_rows": 256,
    "model.trunk.final_norm": True,
    "patching.kind": "entropy_and_jump",
    "patching.threshold": 3.0,
    "patching.jump": 0.0,
    "patching.commit_bos": True,
    "patching.capacity": 1.0,
}
# Decisions that depend on no entropy, which bfloat16 rounds to either side of a threshold.
UNASKED = CROSS | {
    "model.pooling.kind": "cross_attention",
    "patching.kind": "whitespace",
    "trigger.kind": "stride",
}
MODELS = {
    "controllers": {"patching.kind": "entropy", "patching.gain": 0.02, "trigger.gain": 0.02},
    "budgets that refuse": {
        "model.pooling.kind": "concat",
        "patching.kind": "whitespace",
        "patching.capacity": 0.1,
        "trigger.capacity": 0.2,
    },
    "BLT with an entropy model": BLT | HEADLESS | SEPARATE,
    "cross attention both ways": UNASKED | {"model.decoder.scope": "patch"},
    "SpaceByte with scratchpads": {
        "model.pooling.kind": "last",
        "model.pooling.last_state": False,
        "model.decoder.injection": "at_slot",
        "model.decoder.layers": 2,
        "patching.kind": "whitespace",
        "patching.commit_bos": True,
        "patching.capacity": 1.0,
        "trigger.kind": "stride",
    },
    "MegaByte with scratchpads": {
        "model.encoder.layers": 0,
        "model.pooling.kind": "concat",
        "model.pooling.last_state": False,
        "model.decoder.scope": "patch",
        "model.decoder.layers": 2,
        "trigger.kind": "stride",
        "trigger.stride": 2,
    },
    "jumps, every byte a slot, last state, no encoder, no decoder": {
        "patching.kind": "entropy_jump",
        "patching.threshold": 0.05,
        "trigger.kind": "every",
        "model.encoder.layers": 0,
        "model.pooling.kind": "last",
        "model.pooling.last_state": True,
        "model.decoder.layers": 0,
    },
    "learned, whole characters": {
        "patching.whole_characters": True,
        "patching.kind": "whitespace",
        "trigger.kind": "learned",
        "trigger.threshold": 1.1,
        "trigger.whole_characters": True,
    },
    "score": {"trigger.kind": "score", "trigger.threshold": 1.1, "trigger.gain": 0.02},
    "learned patches": {
        "model.smoothing": True,
        "model.pooling.kind": "last",
        "model.decoder.residual": "projected",
        "patching.kind": "learned",
        "trigger.kind": "stride",
    },
    "learned patches by cross attention": CROSS | {
        "model.smoothing": True,
        "patching.kind": "learned",
        "patching.capacity": 0.2,
        "trigger.kind": "whitespace",
    },
    # So many tokens have the ids of bytes.
    "tokens": tokens.FIELDS | {"data.tokenizer": "any.json", "data.vocabulary": 256},
    "blocks": {
        "kernels.staircase": "blocked",
        "kernels.window": "blocked",
        "patching.patch_bytes": 2,
        "trigger.kind": "every",
        "model.encoder.window": 30,
    },
    "no trunk": TRUNKLESS,
    "states that select": {
        "model.encoder.kind": "ssm",
        "model.trunk.kind": "ssm",
        "model.trunk.kv_heads": 0,
        "model.decoder.kind": "ssm",
        "model.decoder.scope": "patch",
        "model.ssm.selective": True,
        "model.pooling.kind": "gaussian",
        "patching.kind": "whitespace",
        "trigger.kind": "stride",
    },
}


# One model has several layers of a trunk; the others compile in half the time.
SHALLOW = {"model.trunk.layers": 1}


def config_of(name: str, **more):
    fields = MODELS[name] if name in ("controllers", "no trunk") else SHALLOW | MODELS[name]
    return tiny.config(fields | more)


@functools.lru_cache
def _programs(key: str):
    """Compiled (empty, chunk, one byte) of a config."""
    made = config_lib.from_flat(json.loads(key))
    definition, _ = weights_lib.abstract(made)

    def steps(weights):
        return Steps(weights_lib.merge(definition, weights))

    def one(weights, cache, tokens_B):
        model = steps(weights)
        cache, reading = model.read(cache, tokens_B[:, None])
        if not model.trunkless:
            thought = model.think(cache, reading)
            cache = model.settle(cache, reading, thought, (reading.slot_BC & reading.valid_BC)[:, 0])
        cache, logits_BCV = model.write(cache, reading)
        return cache, reading, logits_BCV

    empty = jax.jit(lambda weights, rows: steps(weights).empty(rows), static_argnums=1)
    return empty, jax.jit(lambda weights, cache, tokens_BC: steps(weights).chunk(cache, tokens_BC)), jax.jit(one)


class Reader:
    """Reads rows in pieces, and collects logits and decisions of what is no PAD."""

    def __init__(self, made, weights, rows: int):
        empty, self._chunk, self._one = _programs(json.dumps(config_lib.flat(made)))
        self.weights, self.cache, self.parts = weights, empty(weights, rows), []

    def chunk(self, tokens_BC, size: int = CHUNK):
        """Read up to `size` positions at once, filled up with PAD."""
        count = tokens_BC.shape[1]
        padded_BC = np.pad(tokens_BC, ((0, 0), (0, size - count)), constant_values=PAD)
        self._add(*self._chunk(self.weights, self.cache, padded_BC), count)

    def one(self, tokens_B):
        """Read one position."""
        self._add(*self._one(self.weights, self.cache, tokens_B), 1)

    def _add(self, cache, reading, logits_BCV, count: int):
        self.cache = cache
        masks = (reading.commit_BC, reading.scratchpad_BC)
        masks = (np.zeros(logits_BCV.shape[:2], bool) if mask is None else np.asarray(mask) for mask in masks)
        self.parts.append([x[:, :count] for x in (np.asarray(logits_BCV), *masks)])

    def said(self):
        """(logits_BLV, commit_BL, scratchpad_BL) so far."""
        return [np.concatenate(part, axis=1) for part in zip(*self.parts, strict=True)]


def read_mixed(reader, tokens_BL):
    """A chunk, three bytes one by one, and so on."""
    n = 0
    while n < tokens_BL.shape[1]:
        reader.chunk(tokens_BL[:, n : n + CHUNK])
        n += CHUNK
        for _ in range(3):
            if n < tokens_BL.shape[1]:
                reader.one(tokens_BL[:, n])
                n += 1


@pytest.mark.parametrize("name", MODELS)
def test_pieces_say_what_the_whole_says(monkeypatch, name):
    monkeypatch.setattr(blocked, "_BLOCK", 16)
    made = config_of(name)
    weights, tokens_BL = tiny.weights(made), tiny.batch(rows=3, length=tiny.WINDOW)
    whole, reader = tiny.forward(made)(weights, tokens_BL), Reader(made, weights, 3)
    read_mixed(reader, tokens_BL)
    logits_BLV, commit_BL, scratchpad_BL = reader.said()
    valid_BL = tokens_BL != PAD
    assert (commit_BL == whole.layout.commit_BL)[valid_BL].all()
    assert (scratchpad_BL == whole.layout.scratchpad_BL)[valid_BL].all()
    np.testing.assert_allclose(logits_BLV[valid_BL], np.asarray(whole.logits_BLV)[valid_BL], atol=1e-4)
    if made.model.trunk.kind != "none":
        # Scratchpads leave nothing.
        assert (np.asarray(reader.cache.commits_B) == commit_BL.sum(axis=1)).all() and commit_BL.any()
    if name == "budgets that refuse":
        assert int(whole.layout.suppressed_commits_B.sum()) and int(whole.layout.suppressed_scratchpads_B.sum())


@pytest.mark.parametrize("name", ("controllers", "BLT with an entropy model", "learned patches"))
def test_every_split_point_says_the_same(name):
    made = config_of(name)
    weights, tokens_BL = tiny.weights(made), tiny.batch(rows=3, length=tiny.WINDOW)
    whole = tiny.forward(made)(weights, tokens_BL)
    whole_logits_BLV = np.asarray(whole.logits_BLV)
    whole_commit_BL, whole_scratchpad_BL = np.asarray(whole.layout.commit_BL), np.asarray(whole.layout.scratchpad_BL)
    for split in range(1, CHUNK):
        reader = Reader(made, weights, 3)
        reader.chunk(tokens_BL[:, :split])
        for n in range(split, split + 3):
            reader.one(tokens_BL[:, n])
        logits_BLV, commit_BL, scratchpad_BL = reader.said()
        assert (commit_BL == whole_commit_BL[:, : split + 3]).all()
        assert (scratchpad_BL == whole_scratchpad_BL[:, : split + 3]).all()
        np.testing.assert_allclose(logits_BLV, whole_logits_BLV[:, : split + 3], atol=1e-4)


def test_in_bfloat16_the_difference_is_within_the_noise_of_the_type():
    """The float32 pass is the one that `test_pieces_say_what_the_whole_says` has compiled."""
    name = "cross attention both ways"
    made = config_of(name, **{"training.dtype": "bfloat16"})
    weights, tokens_BL = tiny.weights(made), tiny.batch(rows=3, length=tiny.WINDOW)
    whole, reader = tiny.forward(made)(weights, tokens_BL), Reader(made, weights, 3)
    exact = tiny.forward(config_of(name))(weights, tokens_BL)
    read_mixed(reader, tokens_BL)
    valid_BL = tokens_BL != PAD
    logits, parallel, exact = (np.asarray(x)[valid_BL] for x in (reader.said()[0], whole.logits_BLV, exact.logits_BLV))
    noise = np.abs(parallel - exact)
    assert 0 < np.abs(logits - exact).max() <= 1.5 * noise.max()
    assert np.sqrt(np.square(logits - exact).mean()) <= 1.1 * np.sqrt(np.square(noise).mean())


def test_rows_do_not_see_each_other_and_pad_changes_nothing():
    made = config_of("controllers")
    weights, tokens_BL = tiny.weights(made), tiny.batch(rows=3, length=tiny.WINDOW)
    apart, together = Reader(made, weights, 3), Reader(made, weights, 3)
    for n in range(CHUNK):
        together.one(tokens_BL[:, n])
        for row in range(3):
            apart.one(np.where(np.arange(3) == row, tokens_BL[:, n], PAD))
    one, other = (np.asarray(reader.said()[0]) for reader in (together, apart))
    for row in range(3):
        assert (one[row] == other[row, row::3]).all()
    same = jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), together.cache, apart.cache)
    assert all(jax.tree.leaves(same))


def test_nothing_continues_text_by_what_follows_it():
    made = tiny.config({"model.leak": "broadcast", "trigger.kind": "none"})
    model = weights_lib.merge(weights_lib.abstract(made)[0], tiny.weights(made))
    with pytest.raises(UserError, match="'broadcast' lets bytes read what follows them, so it cannot continue text"):
        Steps(model)
