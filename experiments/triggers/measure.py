"""Every trigger on the same weights, at an equal rate.

Two compiled programs serve all of them: what decisions read, and the loss of rows whose scratchpads are given. Legend:
R rows, L positions, M = L + 1 tokens of a row, A ages of a context.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from experiments.triggers.config import RATE
from scratchpatch import config as config_lib, precision
from scratchpatch.model import benefit, heads, weights as weights_lib
from scratchpatch.patching import layout, scores, slots
from scratchpatch.patching.rows import pack
from scratchpatch.patching.scores import Signals

SCORED = ("entropy", "entropy_jump", "score", "learned", "oracle")
# As `oracle`, of the next byte alone.
NEXT = "oracle_next"
KINDS = ("none", "every", *SCORED, NEXT, "stride", "whitespace", "random", "marks")
# Rows of one call.
_ROWS = 64


class Programs:
    """Compiled once for all weights of a config.

    read: (weights, tokens_RM) -> what decisions read, arrays by name.
    score: (weights, tokens_RM, scratchpad_RL) -> nats of each target, and whether it was the likeliest.
    """

    def __init__(self, config):
        self.config, self.definition = config, weights_lib.abstract(config)[0]
        self.read, self.score = jax.jit(self._read), jax.jit(self._score)

    @precision.of_config
    def _read(self, weights, tokens_RM):
        model, tokens_RL, targets_RL = weights_lib.merge(self.definition, weights), tokens_RM[:, :-1], tokens_RM[:, 1:]
        output = model(tokens_RL)
        base, rows = output.layout, output.layout.rows
        n_L = jnp.arange(tokens_RL.shape[1], dtype=jnp.int32)
        before_RL = rows.previous(rows.tokens_BL, rows.tokens_BL)
        weight = self.config.trigger.dependence
        return {
            "own": output.layout.scratchpad_BL,
            "commit": base.commit_BL,
            "patch_bytes": n_L - base.patch_start_BL + 1,
            "entropy": output.entropy_BL,
            "learned": model.benefit_head.score(output.predicted_BLM),
            "score": model.dependence.score(weight, output.entropy_BL, rows.tokens_BL, before_RL)[..., None],
            "oracle": benefit.measure_all(model, output.hidden_BLd, base, targets_RL)[..., None],
        }

    @precision.of_config
    def _score(self, weights, tokens_RM, scratchpad_RL):
        """Nats of each target, and whether it was the likeliest, with scratchpads at these places."""
        model = weights_lib.merge(self.definition, weights)
        tokens_RL, targets_RL = tokens_RM[:, :-1], tokens_RM[:, 1:]
        # The model runs again only as far as its encoder and its commits: the rest is not used.
        output = model(tokens_RL)
        base, length = output.layout, tokens_RL.shape[1]
        commits = base.slots.commits
        given = slots.build(base.commit_BL, scratchpad_RL, base.patch_start_BL, base.rows, commits, length)
        h_RLd, decided = output.hidden_BLd, dataclasses.replace(base, scratchpad_BL=scratchpad_RL, slots=given)
        logits_RLV = model.decoder(h_RLd, model.trunk(model.pooling(h_RLd, decided), decided), decided)
        return heads.nats(logits_RLV, targets_RL, base.rows.vocabulary), logits_RLV.argmax(-1) == targets_RL


class Measured:
    """A model's answers about some rows of text."""

    def __init__(self, config, weights, tokens_RM: np.ndarray, programs: Programs):
        self.config, self.weights, self.programs, self.tokens_RM = config, weights, programs, tokens_RM
        self.chunks = [tokens_RM[i : i + _ROWS] for i in range(0, len(tokens_RM), _ROWS)]
        signals = [jax.device_get(programs.read(weights, chunk)) for chunk in self.chunks]
        self.signals = {name: np.concatenate([part[name] for part in signals]) for name in signals[0]}

    @functools.cached_property
    def eligible_RL(self) -> np.ndarray:
        """Where a scratchpad may stand."""
        pad = config_lib.vocabulary(self.config).pad
        return (self.tokens_RM[:, :-1] != pad) & ~self.signals["commit"]

    @functools.cached_property
    def saved_RL(self) -> np.ndarray:
        """float32 [R, L]: nats of the next byte alone that a fresh context saves."""
        return self.nats(np.zeros_like(self.eligible_RL))[0] - self.nats(self.eligible_RL)[0]

    def scores(self, kind: str) -> np.ndarray:
        """float32 [R, L]: what the kind holds against its threshold."""
        if kind == NEXT:
            return self.saved_RL
        if kind == "entropy":
            return self.signals["entropy"]
        if kind == "entropy_jump":
            rows = pack(jnp.asarray(self.tokens_RM[:, :-1]), config_lib.vocabulary(self.config))
            return np.asarray(scores.entropy_jump(jnp.asarray(self.signals["entropy"]), rows))
        return np.asarray(scores.benefit(jnp.asarray(self.signals[kind]), jnp.asarray(self.signals["patch_bytes"])))

    def scratchpads(self, kind: str, rate: float = RATE) -> np.ndarray:
        """bool [R, L]: where the kind fires, as often as the rate says per position where it has a threshold."""
        if kind == "none":
            return np.zeros_like(self.eligible_RL)
        if kind == "every":
            return self.eligible_RL
        if kind in (*SCORED, NEXT):
            score_RL = self.scores(kind)
            wanted = round(rate * (self.tokens_RM[:, :-1] != config_lib.vocabulary(self.config).pad).sum())
            threshold = np.sort(score_RL[self.eligible_RL])[-wanted - 1]
            return self.eligible_RL & (score_RL > threshold)
        positions = (self.tokens_RM[:, :-1] != config_lib.vocabulary(self.config).pad).sum()
        drawn = min(rate * float(positions / self.eligible_RL.sum()), 1.0)
        fields = {"trigger.kind": kind, "trigger.rate": drawn, "trigger.stride": 4, "trigger.capacity": 0.0}
        if kind in ("whitespace", "marks"):
            fields["trigger.capacity"] = rate
        config = config_lib.from_flat(config_lib.flat(self.config) | fields)
        rows = pack(jnp.asarray(self.tokens_RM[:, :-1]), config_lib.vocabulary(config))
        signals = Signals(jnp.asarray(self.signals["entropy"]))
        return np.asarray(layout.decide(config, rows, signals, layout.initial_thresholds(config)).scratchpad_BL)

    def nats(self, scratchpad_RL: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nats of each target, and whether it was the likeliest, with scratchpads at these places."""
        parts, at = [], 0
        for chunk in self.chunks:
            some = scratchpad_RL[at : at + len(chunk)]
            parts.append(jax.device_get(self.programs.score(self.weights, chunk, some)))
            at += len(chunk)
        return tuple(np.concatenate([part[i] for part in parts]) for i in range(2))

    def numbers(self, scratchpad_RL: np.ndarray, corpora_R: np.ndarray, computed_RL: np.ndarray) -> dict:
        """BPB of books and code together (or of all), and of each corpus; BPB and accuracy of computed bytes; rate of
        scratchpads per position.
        """
        nats_RL, best_RL = self.nats(scratchpad_RL)
        vocabulary = config_lib.vocabulary(self.config)
        byte_RL = self.tokens_RM[:, 1:] < vocabulary.bos

        def bpb(where_RL) -> float:
            return float(nats_RL[where_RL].sum(dtype=np.float64) / where_RL.sum() / math.log(2))

        corpora = {name: bpb(byte_RL & (corpora_R == name)[:, None]) for name in np.unique(corpora_R)}
        return {
            "bpb": float(np.mean([corpora[name] for name in ("books", "code") if name in corpora] or [bpb(byte_RL)])),
            **{str(name): value for name, value in corpora.items()},
            "computed_bpb": bpb(byte_RL & computed_RL),
            "computed_accuracy": float(best_RL[byte_RL & computed_RL].mean()),
            "scratchpads_per_byte": float(scratchpad_RL.sum() / (self.tokens_RM[:, :-1] != vocabulary.pad).sum()),
        }

    def correlations(self) -> dict:
        """Of each score with the benefit over the horizon, where a scratchpad may stand."""
        saved = self.signals["oracle"][..., 0][self.eligible_RL]
        found = {}
        for kind in ("entropy", "entropy_jump", "score", "learned"):
            x = self.scores(kind)[self.eligible_RL] if "entropy" in kind else self._raw(kind)[self.eligible_RL]
            finite = np.isfinite(x)
            found[kind] = float(np.corrcoef(x[finite], saved[finite])[0, 1])
        return found | {"benefit_mean": float(saved.mean()), "benefit_deviation": float(saved.std())}

    def _raw(self, kind: str) -> np.ndarray:
        """The benefit that is thought of, before it is made positive."""
        return 2 * np.log(self.scores(kind))
