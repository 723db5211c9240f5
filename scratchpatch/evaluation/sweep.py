"""Quality and cost of one model's weights, by threshold. Legend: T positions of a stream."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from scratchpatch import config as config_lib
from scratchpatch.config_fields import ENTROPY_PATCHIFIERS
from scratchpatch.evaluation import bpb
from scratchpatch.inference.language_model import LanguageModel

TRIGGER, PATCHIFIER = "trigger.threshold", "patching.threshold"
# Scratchpads per byte, and sizes of patches as multiples of the trained one; the thresholds that give about so many
# come from the text's own entropies.
_RATES = (0.03, 0.06, 0.12, 0.2, 0.3, 0.5)
_PATCHES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
# Thresholds that every entropy, or none, exceeds.
_ALWAYS, _NEVER = -1.0, 1e9
_NUMBERS = (
    *("bpb", "bytes", "trunk_calls_per_byte", "scratchpads_per_byte", "bytes_per_patch"),
    *("flops_per_byte", "kv_bytes_per_byte"),
)


def dials(lm: LanguageModel) -> list[str]:
    """The fields of the config by which a trained model does more or less work; none where there is no trunk or every
    byte is a patch.

    The trigger's is there where the model has entropies, whatever its own trigger is: the entropy trigger runs on any
    weights. The patchifier's is there where it reads entropies: others have trained for patches of another kind.
    """
    model = lm.config.model
    if model.trunk.kind == "none" or lm.config.patching.kind == "byte":
        return []
    has_entropies = model.entropy_head.weight > 0 or model.entropy_model.layers > 0
    return [TRIGGER] * has_entropies + [PATCHIFIER] * (lm.config.patching.kind in ENTROPY_PATCHIFIERS)


def models(lm: LanguageModel, dial: str, streams: Sequence) -> Iterator[tuple[float, LanguageModel]]:
    """(threshold, model) at falling thresholds of a dial, without budget and controller: ever more work.

    The entropy trigger goes from one that lets no scratchpad fire to one that lets all fire. Thresholds of the
    patchifier are those at which about as many positions of the streams ask for a commit as patches of several sizes
    need. All models of a dial are one compiled program.
    """
    if dial == TRIGGER:
        moved = lm.override({"trigger.kind": "entropy", TRIGGER: _NEVER})
        thresholds = _of_the_trigger(moved, streams)
    else:
        moved = lm.override({PATCHIFIER: lm.config.patching.threshold})
        thresholds = _of_the_patchifier(moved, streams)
    for threshold in thresholds:
        yield threshold, moved.override({dial: threshold})


def point(
    lm: LanguageModel, threshold: float | None, streams: Sequence, progress_label: str = "sweep"
) -> dict[str, Any]:
    """The threshold, and what `bpb.measure` says of quality and cost."""
    result = bpb.measure(lm, streams, compressor_bytes=0, label=progress_label)
    return {"threshold": threshold, **{name: result[name] for name in _NUMBERS}}


def label(dial: str, threshold: float | None) -> str:
    """What a threshold is called: '' as trained; what it does where every entropy, or none, exceeds it."""
    if threshold is None:
        return ""
    if dial == TRIGGER and threshold < 0:
        return "every byte"
    never = dial == TRIGGER and threshold >= math.log(config_lib.vocabulary(config_lib.default()).size)
    return "none" if never else f"{threshold:.3g}"


def _of_the_trigger(lm: LanguageModel, streams: Sequence) -> list[float]:
    inside_patches = [part.entropy[~part.commit] for stream in streams for part in lm.positions(stream)]
    entropy = np.concatenate(inside_patches)
    share = len(entropy) / sum(map(len, streams))
    quantiles = [np.quantile(entropy, 1 - rate / share) for rate in _RATES if rate < share]
    return [_NEVER, *sorted(map(float, quantiles), reverse=True), _ALWAYS]


def _of_the_patchifier(lm: LanguageModel, streams: Sequence) -> list[float]:
    patching = lm.config.patching
    scores = []
    for stream in streams:
        parts = list(lm.positions(stream))
        entropy_T, since_T = (np.concatenate([getattr(part, name) for part in parts]) for name in ("entropy", "since"))
        jump_T = np.where(since_T == 1, -np.inf, np.diff(entropy_T, prepend=np.inf))
        if patching.kind == "entropy_jump":
            scores.append(jump_T)
        else:
            asks_T = jump_T > patching.jump if patching.kind == "entropy_and_jump" else True
            scores.append(np.where(asks_T, entropy_T, -np.inf))
    score_T = np.sort(np.concatenate(scores))
    sizes = [patching.patch_bytes * times for times in _PATCHES]
    shares = [1 / size for size in sizes if 1 < size <= patching.max_patch_bytes]
    places = {float(score_T[-max(int(share * len(score_T)), 1)]) for share in shares}
    return sorted((threshold for threshold in places if math.isfinite(threshold)), reverse=True)
