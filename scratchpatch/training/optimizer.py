"""AdamW, and the numbers that each of its steps is taken with: functions of the config and of the step's index.

Nothing of `optimizer.*` is compiled into the step, so each field may change when a run resumes.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import optax

from scratchpatch import config as config_lib


class Settings(NamedTuple):
    """What one step is taken with, float32 scalars; the last three are limits, infinite where nothing limits.

    encoder_scale, trunk_scale, decoder_scale: times of the learning rate, by tier (see `TIERS`). patch_bytes: bytes per
    patch that learned patches are drawn to.
    """

    learning_rate: jax.Array
    b1: jax.Array
    b2: jax.Array
    eps: jax.Array
    weight_decay: jax.Array
    encoder_scale: jax.Array
    trunk_scale: jax.Array
    decoder_scale: jax.Array
    patch_bytes: jax.Array
    clip_norm: jax.Array
    loss_spike: jax.Array
    norm_spike: jax.Array


# By the name of a part of the model, the setting that scales its learning rate. The heads read the encoder's states;
# pooling and the trunk run at slots alone.
TIERS = {
    **dict.fromkeys(("encoder", "entropy_head", "benefit_head", "router"), "encoder_scale"),
    **dict.fromkeys(("pooling", "trunk"), "trunk_scale"),
    "decoder": "decoder_scale",
}


def settings(config, index: int) -> np.ndarray:
    """float32 [fields of Settings]: what the step with this index is taken with."""
    o, t = config.optimizer, config.training
    limits = (limit or math.inf for limit in (o.clip_norm, t.loss_spike, t.norm_spike))
    return np.array(Settings(
        schedule(config)(index), o.b1, o.b2, o.eps, o.weight_decay, o.encoder_scale, o.trunk_scale, o.decoder_scale,
        curriculum(config)(index), *limits,
    ), np.float32)


def curriculum(config) -> Callable[[int], float]:
    """The bytes per patch that learned patches are drawn to, by the index of the step: a line from
    patching.curriculum_from at step 0 to patching.patch_bytes at step patching.curriculum_steps, and these from there
    on. (Compression that rises while a model trains: arXiv 2605.30080; the line is ours.)
    """
    p = config.patching

    def target(index: int) -> float:
        if index >= p.curriculum_steps:
            return p.patch_bytes
        return p.curriculum_from + (p.patch_bytes - p.curriculum_from) * index / p.curriculum_steps

    return target


def schedule(config) -> Callable[[int], float]:
    """The learning rate by the index of the step, which counts from 0 to training.steps - 1.

    Warm-up: with w = min(optimizer.warmup_steps, training.steps - 1), step i < w gets peak * (1 + (w - 1) * i / w) / w,
    a line from peak / w at step 0 to the peak at step w; w = 0 starts at the peak.
    Then cosine falls along half a cosine wave; wsd (arXiv 2404.06395) stays at the peak and falls along a line over the
    last round(decay_share * steps) steps, at least one (none of a share of 0); constant stays at the peak. From cosine
    and wsd the last step gets exactly final_ratio * peak. Steps beyond the last one get what the last one does.
    """
    o, steps = config.optimizer, config.training.steps
    peak, kind, last = o.learning_rate, o.schedule, max(steps - 1, 0)
    warmup = min(o.warmup_steps, last)
    decay = max(round(o.decay_share * steps), 1) if o.decay_share > 0 else 0
    falling = {"cosine": last - warmup, "wsd": min(decay, last - warmup), "constant": 0}[kind]
    falls = kind == "cosine" or kind == "wsd" and decay > 0

    def rate(index: int) -> float:
        index = min(index, last)
        if falls and index == last:
            return peak * o.final_ratio
        if index < warmup:
            return peak * (1 + (warmup - 1) * index / warmup) / warmup
        fallen = max(index - (last - falling), 0) / max(falling, 1)
        share = (1 - math.cos(math.pi * fallen)) / 2 if kind == "cosine" else fallen
        return peak * (1 - share * (1 - o.final_ratio))

    return rate


_RATE, _TARGET = (Settings._fields.index(name) for name in ("learning_rate", "patch_bytes"))


class SettingsByStep:
    """What each step of a run is taken with, by the run's history of settings (see `checkpoints.settings`)."""

    def __init__(self, config, history: list[tuple[int, dict]]):
        values = config_lib.flat(config)
        configs = [(start, config_lib.from_flat(values | changed)) for start, changed in history]
        # By the first step: what depends on the step, and what does not.
        self._parts = [
            (start, schedule(config), curriculum(config), settings(config, start)) for start, config in configs
        ]

    def at(self, index: int) -> np.ndarray:
        """See `settings`."""
        _, rate, target, same = self._part(index)
        array = same.copy()
        array[_RATE], array[_TARGET] = rate(index), target(index)
        return array

    def learning_rate(self, index: int) -> float:
        """See `schedule`."""
        return self._part(index)[1](index)

    def _part(self, index: int) -> tuple[int, Callable[[int], float], Callable[[int], float], np.ndarray]:
        """What holds at the step with this index."""
        return next(part for part in reversed(self._parts) if part[0] <= index)


def decayed(params):
    """True for the matrices of projections: norms, embeddings and the null context have no decay."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def make(s: Settings) -> optax.GradientTransformation:
    """AdamW (arXiv 1711.05101) after clipping by the global norm. Its state counts the steps that were taken, for
    Adam's bias correction; the schedule goes by the index of the step.
    """
    adamw = optax.chain(
        optax.scale_by_adam(s.b1, s.b2, s.eps), optax.add_decayed_weights(s.weight_decay, decayed), _by_tier(s)
    )
    return optax.chain(optax.clip_by_global_norm(s.clip_norm), adamw)


def _by_tier(s: Settings) -> optax.GradientTransformation:
    """Times minus the learning rate of the tier that a parameter belongs to, decay included."""

    def update(updates, state, params=None):
        def scaled(path, x):
            name = TIERS.get(path[0].key)
            return -(s.learning_rate if name is None else s.learning_rate * getattr(s, name)) * x

        return jax.tree_util.tree_map_with_path(scaled, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def init(params):
    """The state before the first step."""
    return make(Settings(*np.zeros(len(Settings._fields), np.float32))).init(params)
