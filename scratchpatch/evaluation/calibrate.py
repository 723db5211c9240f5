"""The threshold at which a trained model makes patches, or scratchpads, as often as wanted.

Entropies do not depend on the layout: they are computed once, on a sample of the text, and the search repeats the
decisions alone. The sample is evenly spread over the windows that `eval` reads, so that rates mean the same.

Legend: R rows, L positions of a row, C chunks of rows.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import shlex
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scratchpatch import config as config_lib
from scratchpatch.checkpoints import run_text
from scratchpatch.distributed import processes
from scratchpatch.errors import UserError
from scratchpatch.inference import windows
from scratchpatch.inference.entropies import Entropies
from scratchpatch.inference.language_model import LanguageModel
from scratchpatch.inference.loading import load
from scratchpatch.model import weights as weights_lib
from scratchpatch.patching import layout
from scratchpatch.patching.rows import pack
from scratchpatch.patching.scores import Signals
from scratchpatch.progress import Progress

# Beyond every entropy and jump, in nats, which are at most the logarithm of the vocabulary's size; and beyond every
# benefit, see `patching.scores.benefit`.
_BEYOND = 1e14
# Positions that decisions are made on at once.
_CHUNK = 1 << 18
UNITS = {"patching": "bytes per patch", "trigger": "scratchpads per byte"}
# What sets the rate of a kind that has no threshold.
_INSTEAD = {
    "patching": {
        "fixed": "set patching.patch_bytes, or --override patching.kind=entropy",
        "random": "set patching.patch_bytes, or --override patching.kind=entropy",
        "byte": "every byte is a patch; train with patching.kind = 'entropy'",
        "whitespace": "its patches are words; --override patching.kind=entropy has one",
        "learned": "its router decides; train with another patching.patch_bytes",
    },
    "trigger": {
        "none": "--override trigger.kind=entropy has one",
        "stride": "set trigger.stride, or --override trigger.kind=entropy",
        "random": "set trigger.rate, or --override trigger.kind=entropy",
        "whitespace": "it fires at words; --override trigger.kind=entropy has one",
        "marks": "it fires after trigger.marks; --override trigger.kind=entropy has one",
        "every": "it fires at every byte; --override trigger.kind=entropy has one",
    },
}


def calibrate(
    workdir,
    bytes_per_patch: float | None = None,
    scratchpads_per_byte: float | None = None,
    source: str | None = None,
    split: str = "train",
    sample_bytes: int = 1 << 18,
    step: int | None = None,
    overrides: dict[str, Any] | None = None,
    devices: int | None = None,
    mesh: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Find the threshold of the patchifier, or of the trigger, that gives a rate. All processes must call this.

    The budget and the controller of the section that is calibrated are off, as they are where `LanguageModel.override`
    is given a threshold. Rates count positions, a document's BOS among them, as `bpb.measure` does.

    Args:
      bytes_per_patch: mean patch size wanted; or
      scratchpads_per_byte: how often the trigger shall fire. One of the two.
      source: SPEC of the text; the run's own, by weight, where None.
      split: which documents of it the sample comes from.
      sample_bytes: about how many bytes; also of the held-out text.
      step, devices, mesh: see `load`. overrides: see `LanguageModel.override`.
    Returns:
      field, threshold (nats), target, unit, granularity (the rates on both sides of where the target is crossed),
      sample and held_out (bytes, rate, source, split), settings (overrides under which the rate holds).
    Raises:
      UserError: a kind without a threshold, or a rate that no threshold gives.
    """
    section = "patching" if scratchpads_per_byte is None else "trigger"
    target = bytes_per_patch if scratchpads_per_byte is None else scratchpads_per_byte
    field, overrides = f"{section}.threshold", overrides or {}
    lm = _without_budget(load(workdir, step, devices, mesh), section, overrides)

    def streams_of(split: str) -> list[tuple[Any, float]]:
        return run_text.agreed_streams(workdir, lm.config, source, split, overrides)

    validates = source is None and bool(lm.config.data.validation_sources)
    sample, held_out = _sample_and_held_out(lm, streams_of, split, validates, sample_bytes)

    def found() -> dict[str, Any]:
        count = _counter(lm, section, sample)
        threshold, granularity = search(section, count, sample.positions, target, lm.config)

        def measured(text: _Text, decisions: int) -> dict[str, Any]:
            return text.about | {"rate": _rate(section, decisions, text.positions)}

        return {
            "field": field,
            "threshold": threshold,
            "target": target,
            "unit": UNITS[section],
            "granularity": granularity,
            "sample": measured(sample, count(threshold)),
            "held_out": measured(held_out, _counter(lm, section, held_out)(threshold)),
            "settings": overrides | {field: threshold},
        }

    # Decisions are made on one device.
    return processes.first(found)


def table(result: dict[str, Any], workdir: str) -> str:
    """The result in words, with the lines that use it."""
    unit = result["unit"]

    def measured(name: str) -> str:
        text = result[name]
        rate = "no patch" if text["rate"] is None else f"{text['rate']:.4g} {unit}"
        return f"{rate} on {text['bytes']:,} bytes of {text['source']} [{text['split']}]"

    lines = [
        f"{result['field']} = {result['threshold']!r} nats for {result['target']:g} {unit}",
        f"  sample    {measured('sample')}",
        f"  held out  {measured('held_out')}",
    ]
    rate = result["sample"]["rate"]
    if rate is None or abs(rate - result["target"]) > 0.01 * result["target"]:
        between = " and ".join("no patch" if side is None else f"{side:.4g}" for side in result["granularity"])
        why = "entropies are equal, or ends by max_patch_bytes move"
        lines.append(f"  the rate jumps between {between} at that threshold: {why}")
    flags = " ".join(f"--override {shlex.quote(f'{k}={v}')}" for k, v in result["settings"].items())
    section = result["field"].split(".")[0]
    # What naming a threshold implies on trained weights, a config must say.
    fields = {f"{section}.gain": 0.0, f"{section}.capacity": 1.0} | result["settings"]
    lines += ["on these weights:", f"  scratchpatch eval --workdir={shlex.quote(str(workdir))} {flags}", "in a config:"]
    return "\n".join(lines + [f"  config.{name} = {value!r}" for name, value in fields.items()])


def _without_budget(lm: LanguageModel, section: str, overrides: dict[str, Any]) -> LanguageModel:
    """The model with these overrides, and with the budget and the controller of the section off."""
    field = f"{section}.threshold"
    if field in overrides:
        raise UserError(f"{field} is what calibrate looks for: leave out --override {field}={overrides[field]}")
    if gain := overrides.get(f"{section}.gain"):
        raise UserError(f"{section}.gain = {gain} moves the threshold as it goes: leave it out")
    config = lm.override(overrides).config
    if config.model.trunk.kind == "none":
        fix = "calibrate a model with a trunk"
        raise UserError(f"model.trunk.kind = 'none' makes neither patches nor scratchpads: {fix}")
    kind = config[section].kind
    if kind not in config_lib.SCORED[section]:
        raise UserError(f"{section}.kind = {kind!r} has no threshold: {_INSTEAD[section][kind]}")
    if section == "trigger" and config.patching.kind == "byte":
        raise UserError("patching.kind = 'byte' leaves no byte inside a patch where a scratchpad could fire")
    return lm.override({**overrides, field: config[section].threshold})


@dataclasses.dataclass(frozen=True)
class _Text:
    """Rows that decisions are made on.

    tokens_RL, signals: see `entropies.Answers`. counts_RL: positions that these rows answer for.
    is_byte_RL: those of text, neither BOS nor PAD. source, split: where the rows come from.
    """

    tokens_RL: np.ndarray
    signals: Signals
    counts_RL: np.ndarray
    is_byte_RL: np.ndarray
    source: str
    split: str

    @property
    def positions(self) -> int:
        return int(self.counts_RL.sum())

    @property
    def about(self) -> dict[str, Any]:
        return {"bytes": int((self.counts_RL & self.is_byte_RL).sum()), "source": self.source, "split": self.split}

    def half(self, counts_RL: np.ndarray, name: str) -> _Text:
        """The same rows, of whose positions those of one half count."""
        split = f"{self.split}, {name} half of the sample"
        return dataclasses.replace(self, counts_RL=self.counts_RL & counts_RL, split=split)


def _sample_and_held_out(lm, streams_of: Callable, split: str, validates: bool, size: int) -> tuple[_Text, _Text]:
    """A sample of a split, and text that is not in it: the validation split, or a half that is held back of the sample.

    `streams_of`: a split to its (stream, weight) pairs; `validates`: the validation split has sources of its own;
    `size`: bytes of each text.
    """
    entropies = Entropies(lm.config, lm.weights)
    streams = streams_of(split)
    sample = _sample(entropies, lm.config, streams, size)
    unsplit = not validates and any(stream.split == "all" for stream, _ in streams)
    if not unsplit and split not in ("validation", "all"):
        return sample, _sample(entropies, lm.config, streams_of("validation"), size)
    in_first_RL = np.cumsum(sample.counts_RL).reshape(sample.counts_RL.shape) <= sample.positions // 2
    return sample.half(in_first_RL, "first"), sample.half(~in_first_RL, "second")


def _sample(entropies: Entropies, config, streams: list[tuple[Any, float]], sample_bytes: int) -> _Text:
    """Windows evenly spread over each stream, in all about `sample_bytes` by the streams' weights."""
    total_weight = sum(weight for _, weight in streams)
    chosen = []
    for stream, weight in streams:
        available = windows.count(len(stream), entropies.length)
        # All windows answer for about half their length, but the first, which answers for all of it.
        wanted = max(math.ceil(sample_bytes * weight / total_weight / max(entropies.length // 2, 1)), 1)
        spread = np.linspace(0, available - 1, min(wanted, available)).round().astype(int)
        chosen.append(np.unique(spread).tolist())
    rows = []
    total = sum(map(len, chosen))
    with Progress(total, label="entropies", unit="windows", shown=processes.is_first()) as progress:
        for (stream, _), indices in zip(streams, chosen, strict=True):
            for some in entropies.along(stream, indices):
                rows.append(some)
                progress.advance(len(some.windows), sum(window.count for window in some.windows))
    tokens_RL = np.concatenate([some.tokens_RL for some in rows])
    counts_RL = np.zeros(tokens_RL.shape, bool)
    for row_L, w in zip(counts_RL, itertools.chain.from_iterable(some.windows for some in rows), strict=True):
        row_L[w.first - w.start :][: w.count] = True
    return _Text(
        tokens_RL=tokens_RL,
        signals=jax.tree.map(lambda *some: np.concatenate(some), *(some.signals for some in rows)),
        counts_RL=counts_RL,
        is_byte_RL=tokens_RL < config_lib.vocabulary(config).bos,
        source=", ".join(dict.fromkeys(stream.spec for stream, _ in streams)),
        split=", ".join(dict.fromkeys(stream.split for stream, _ in streams)),
    )


def _counter(lm: LanguageModel, section: str, text: _Text) -> Callable[[float], int]:
    """How many commits, or scratchpads, a threshold gives on the positions that the text counts."""
    rows, length = text.tokens_RL.shape
    rows_at_once = min(max(_CHUNK // length, 1), rows)
    chunks = -(-rows // rows_at_once)

    def in_chunks(x_RL: np.ndarray, fill) -> jax.Array:
        """Also of arrays [R, L, ...]."""
        missing = ((0, chunks * rows_at_once - rows), *((0, 0),) * (x_RL.ndim - 1))
        x_RL = np.pad(x_RL, missing, constant_values=fill)
        return jnp.asarray(x_RL.reshape(chunks, rows_at_once, *x_RL.shape[1:]))

    pad = config_lib.vocabulary(lm.config).pad
    signals = jax.tree.map(lambda x_RL: in_chunks(x_RL, 0.0), text.signals)
    arrays = in_chunks(text.tokens_RL, pad), signals, in_chunks(text.counts_RL, False)
    weights = jax.device_get(lm.weights["thresholds"])
    own = layout.Thresholds(jnp.asarray(weights["patching_threshold"]), jnp.asarray(weights["trigger_threshold"]))
    config = weights_lib.without_thresholds(lm.config)
    return lambda threshold: int(
        _count(config, section, arrays, dataclasses.replace(own, **{section: jnp.float32(threshold)}))
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _count(config, section: str, arrays, thresholds: layout.Thresholds):
    """Decisions of the section on chunks of rows [C, R, L], where they count."""

    def of_chunk(arrays):
        tokens_RL, signals, counts_RL = arrays
        rows = pack(tokens_RL, config_lib.vocabulary(config))
        decisions = layout.decide(config, rows, signals, thresholds)
        return ((decisions.commit_BL if section == "patching" else decisions.scratchpad_BL) & counts_RL).sum()

    return jax.lax.map(of_chunk, arrays).sum()


def _rate(section: str, count: int, positions: int) -> float | None:
    """In the section's unit; None where there is no patch."""
    if section == "trigger":
        return count / positions
    return positions / count if count else None


def search(
    section: str, count: Callable[[float], int], positions: int, target: float, config
) -> tuple[float, list[float | None]]:
    """The shortest decimal whose rate is nearest to the target, and the rates on both sides of where it is crossed.

    `count` says how many decisions of the section a threshold gives on so many positions. The search is a bisection
    over all float32 thresholds, as if the count never rose with the threshold. Commits do rise, rarely and by little,
    where patching.max_patch_bytes ends patches: an end that a higher threshold leaves out moves those that are counted
    in multiples of max_patch_bytes from it, and may move one into the positions that a window answers for. Where the
    target is crossed several times, one crossing is found, and the rates on its two sides are what is said. Scratchpads
    never rise. Raises UserError where no threshold comes near, and says which rates are reachable.
    """
    wanted = positions / target if section == "patching" else positions * target
    most, least = count(-_BEYOND), count(_BEYOND)
    if most == least or not least <= round(wanted) <= most:
        raise UserError(_unreachable(section, [_rate(section, n, positions) for n in (most, least)], target, config))
    # Counts are whole, so some threshold crosses this.
    crossed = min(max(wanted, least + 0.5), most - 0.5)
    low, high = _ordinal(-_BEYOND), _ordinal(_BEYOND)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(_float(middle)) > crossed else (low, middle)
    at_low, at_high = count(_float(low)), count(_float(high))
    rates = [_rate(section, n, positions) for n in (at_low, at_high)]
    if abs(at_low - wanted) < abs(at_high - wanted):
        return _shortest(_float(low), count, math.floor), rates
    return _shortest(_float(high), count, math.ceil), rates


def _shortest(threshold: float, count: Callable[[float], int], towards: Callable[[float], int]) -> float:
    """The decimal of fewest digits that decides as the threshold does; `towards` is where it is rounded to."""
    wanted = count(threshold)
    candidates = (towards(threshold * 10**digits) / 10**digits for digits in range(2, 9))
    return next((short for short in candidates if count(short) == wanted), threshold)


def _unreachable(section: str, rates: list[float | None], target: float, config) -> str:
    """`rates`: at the lowest threshold and at the highest."""
    ends = rates if section == "patching" else rates[::-1]
    lowest, highest = ("no patch at all" if rate is None else f"{rate:.6g}" for rate in ends)
    unit, kind = UNITS[section], config[section].kind
    fix = f"choose a target in between, or another {section}.kind than {kind!r}"
    if section == "patching" and target > 1:
        fix += f", or another patching.max_patch_bytes than {config.patching.max_patch_bytes}"
    flag = f"--target_{unit.replace(' ', '_')}"
    return f"{flag}={target:g}: thresholds reach from {lowest} to {highest} {unit} on this text: {fix}"


def _ordinal(value: float) -> int:
    """The place of a float32 among all of them, in order."""
    bits = int(np.float32(value).view(np.int32))
    return bits if bits >= 0 else -(bits & 0x7FFFFFFF)


def _float(ordinal: int) -> float:
    """The inverse of `_ordinal`."""
    return float(np.uint32(ordinal if ordinal >= 0 else -ordinal | 0x80000000).view(np.float32))
