"""The threshold at which a trained model makes patches, or scratchpads, as often as wanted.

Entropies do not depend on the layout: they are computed once, on a sample of
the text, and the search repeats the decisions alone. The sample is evenly
spread over the windows that `eval` reads, so rates mean what they mean there.

Legend: R rows, L positions of a row, C chunks of rows.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import shlex
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scratchpatch import config as config_lib
from scratchpatch.checkpoints.run_text import own_streams
from scratchpatch.data.mixture import evaluation_stream
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
from scratchpatch.vocabulary import BOS, PAD

# Beyond every entropy and jump, in nats: at most ln of the vocabulary, 5.6.
_BEYOND = 100.0
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
    },
    "trigger": {
        "none": "--override trigger.kind=entropy has one",
        "stride": "set trigger.stride, or --override trigger.kind=entropy",
        "random": "set trigger.rate, or --override trigger.kind=entropy",
        "whitespace": "it fires at words; --override trigger.kind=entropy has one",
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
) -> dict:
    """Find the threshold of the patchifier, or of the trigger, that gives a rate.

    The budget and the controller of the part that is calibrated are off, as
    they are where `LanguageModel.override` is given a threshold. Rates count
    positions, a document's BOS among them, as `bpb.evaluate` does.

    Args:
      workdir: folder of the run.
      bytes_per_patch: mean patch size wanted; or
      scratchpads_per_byte: how often the trigger shall fire. One of the two.
      source: SPEC of the text; the run's own, by weight, where None.
      split: which documents of it the sample comes from.
      sample_bytes: about how many bytes; also of the held-out text.
      step: of the checkpoint; the newest where None.
      overrides: dotted config fields to change on the trained weights.
    Returns:
      field, threshold (nats), target, unit, granularity (the rates on both
      sides of where the target is crossed), sample and held_out (bytes, rate, source,
      split), settings (overrides under which the rate holds).
    Raises:
      UserError: a kind without a threshold, or a rate that no threshold gives.
    """
    section = "patching" if scratchpads_per_byte is None else "trigger"
    target = bytes_per_patch if scratchpads_per_byte is None else scratchpads_per_byte
    lm, settings = _free(load(workdir, step), section, overrides or {})

    def streams(of: str):
        if source is None:
            return own_streams(workdir, lm.config, of, overrides)
        return [(evaluation_stream(lm.config, source, of), 1.0)]

    validates = source is None and bool(lm.config.data.validation_sources)
    sample, held_out = _texts(lm, streams, split, validates, sample_bytes)
    search = _Search(section, _counter(lm, section, sample), sample.positions)
    threshold, granularity = search.find(target, lm.config)
    count = _counter(lm, section, held_out)
    field = f"{section}.threshold"
    return {
        "field": field,
        "threshold": threshold,
        "target": target,
        "unit": UNITS[section],
        "granularity": granularity,
        "sample": sample.about | {"rate": search.rate(search.count(threshold))},
        "held_out": held_out.about | {"rate": _rate(section, count(threshold), held_out.positions)},
        "settings": settings | {field: threshold},
    }


def table(result: dict, workdir: str) -> str:
    """The result in words, with the lines that use it."""
    unit = result["unit"]

    def measured(name: str) -> str:
        at = result[name]
        rate = "no patch" if at["rate"] is None else f"{at['rate']:.4g} {unit}"
        return f"{rate} on {at['bytes']:,} bytes of {at['source']} [{at['split']}]"

    lines = [
        f"{result['field']} = {result['threshold']!r} nats for {result['target']:g} {unit}",
        f"  sample    {measured('sample')}",
        f"  held out  {measured('held_out')}",
    ]
    rate = result["sample"]["rate"]
    if rate is None or abs(rate - result["target"]) > 0.01 * result["target"]:
        between = " and ".join("no patch" if r is None else f"{r:.4g}" for r in result["granularity"])
        lines.append(f"  the rate jumps between {between} at that threshold: entropies are equal, or ends by max_patch_bytes move")
    flags = " ".join(f"--override {shlex.quote(f'{k}={v}')}" for k, v in result["settings"].items())
    section = result["field"].split(".")[0]
    # What naming a threshold implies on trained weights, a config must say.
    named = {f"{section}.gain": 0.0, f"{section}.capacity": 1.0} | result["settings"]
    lines += ["on these weights:", f"  scratchpatch eval --workdir={shlex.quote(str(workdir))} {flags}", "in a config:"]
    return "\n".join(lines + [f"  config.{name} = {value!r}" for name, value in named.items()])


def _free(lm: LanguageModel, section: str, overrides: dict[str, Any]) -> tuple[LanguageModel, dict[str, Any]]:
    """The model with budget and controller of the section off, and the overrides that make it so."""
    field = f"{section}.threshold"
    if field in overrides:
        raise UserError(f"{field} is what calibrate looks for: leave out --override {field}={overrides[field]}")
    if overrides.get(f"{section}.gain"):
        raise UserError(f"{section}.gain = {overrides[f'{section}.gain']} moves the threshold as it goes: leave it out")
    lm = lm.override(overrides)
    config = lm.config
    if config.model.trunk.kind == "none":
        raise UserError("model.trunk.kind = 'none' makes neither patches nor scratchpads: calibrate a model with a trunk")
    kind = config[section].kind
    if kind not in config_lib.ENTROPY_PATCHIFIERS:
        raise UserError(f"{section}.kind = {kind!r} has no threshold: {_INSTEAD[section][kind]}")
    if section == "trigger" and config.patching.kind == "byte":
        raise UserError("patching.kind = 'byte' leaves no byte inside a patch where a scratchpad could fire")
    return lm.override({**overrides, field: config[section].threshold}), overrides


@dataclasses.dataclass(frozen=True)
class _Text:
    """Rows that decisions are made on.

    tokens_RL, entropy_RL: see `entropies.Rows`. counts_RL: positions that these
    rows answer for. about: bytes, source, split.
    """

    tokens_RL: np.ndarray
    entropy_RL: np.ndarray
    counts_RL: np.ndarray
    about: dict[str, Any]

    @property
    def positions(self) -> int:
        return int(self.counts_RL.sum())

    def part(self, first: int, end: int, split: str) -> _Text:
        """Of the positions counted, those from `first` to `end`."""
        order_RL = np.cumsum(self.counts_RL).reshape(self.counts_RL.shape) - 1
        counts_RL = self.counts_RL & (order_RL >= first) & (order_RL < end)
        about = self.about | {"bytes": _bytes(self.tokens_RL, counts_RL), "split": split}
        return dataclasses.replace(self, counts_RL=counts_RL, about=about)


def _bytes(tokens_RL, counts_RL) -> int:
    return int((counts_RL & (tokens_RL < BOS)).sum())


def _texts(lm: LanguageModel, streams: Callable, split: str, validates: bool, sample_bytes: int) -> tuple[_Text, _Text]:
    """The sample, and text that is not in it: the validation split, or the half of the sample that is kept back.

    `streams`: a split's, with weights; `validates`: whether other sources than the sample's do.
    """
    entropies = Entropies(lm.config, lm.weights)
    found = streams(split)
    whole = split in ("validation", "all") or (not validates and any(s.split == "all" for s, _ in found))
    if not whole:
        return _read(entropies, found, sample_bytes), _read(entropies, streams("validation"), sample_bytes)
    sample = _read(entropies, found, sample_bytes)
    half, names = sample.positions // 2, sample.about["split"]
    return sample.part(0, half, f"{names}, first half of the sample"), sample.part(
        half, sample.positions, f"{names}, second half of the sample"
    )


def _read(entropies: Entropies, streams, sample_bytes: int) -> _Text:
    """Windows evenly spread over each stream, in all about `sample_bytes` by the streams' weights."""
    total = sum(weight for _, weight in streams)
    chosen = []
    for stream, weight in streams:
        there = windows.count(len(stream), entropies.length)
        # All windows answer for about half their length, but the first, which answers for all of it.
        wanted = max(math.ceil(sample_bytes * weight / total / max(entropies.length // 2, 1)), 1)
        chosen.append(np.unique(np.linspace(0, there - 1, min(wanted, there)).round().astype(int)).tolist())
    rows = []
    with Progress(total=sum(map(len, chosen)), label="entropies", unit="windows") as progress:
        for (stream, _), ks in zip(streams, chosen, strict=True):
            for part in entropies.along(stream, ks):
                rows.append(part)
                progress.advance(len(part.windows), sum(w.count for w in part.windows))
    tokens_RL, entropy_RL = (np.concatenate([getattr(r, name) for r in rows]) for name in ("tokens_RL", "entropy_RL"))
    counts_RL = np.zeros(tokens_RL.shape, bool)
    for row_L, w in zip(counts_RL, itertools.chain.from_iterable(r.windows for r in rows), strict=True):
        row_L[w.first - w.start :][: w.count] = True
    names = {name: ", ".join(dict.fromkeys(getattr(s, name) for s, _ in streams)) for name in ("spec", "split")}
    about = {"bytes": _bytes(tokens_RL, counts_RL), "source": names["spec"], "split": names["split"]}
    return _Text(tokens_RL, entropy_RL, counts_RL, about)


def _counter(lm: LanguageModel, section: str, text: _Text) -> Callable[[float], int]:
    """How many commits, or scratchpads, a threshold gives on the positions that the text counts."""
    rows, length = text.tokens_RL.shape
    size = min(max(_CHUNK // length, 1), rows)
    chunks = -(-rows // size)

    def chunked(x_RL, fill):
        x_RL = np.pad(x_RL, ((0, chunks * size - rows), (0, 0)), constant_values=fill)
        return jnp.asarray(x_RL.reshape(chunks, size, length))

    arrays = chunked(text.tokens_RL, PAD), chunked(text.entropy_RL, 0.0), chunked(text.counts_RL, False)
    thresholds = lm.weights["thresholds"]
    others = layout.Thresholds(
        jnp.asarray(thresholds["patching_threshold"]), jnp.asarray(thresholds["trigger_threshold"])
    )

    config = weights_lib.without_thresholds(lm.config)
    return lambda threshold: int(_count(config, section, arrays, dataclasses.replace(others, **{section: jnp.float32(threshold)})))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _count(config, section: str, arrays, thresholds: layout.Thresholds):
    """Decisions of the section on chunks of rows, where they count."""

    def chunk(arrays):
        tokens_rL, entropy_rL, counts_rL = arrays
        rows = pack(tokens_rL, config_lib.vocabulary(config))
        found = layout.decide(config, rows, Signals(entropy_rL), thresholds)
        return ((found.commit_BL if section == "patching" else found.scratchpad_BL) & counts_rL).sum()

    return jax.lax.map(chunk, arrays).sum()


def _rate(section: str, count: int, positions: int) -> float | None:
    """In the section's unit; None where there is no patch."""
    if section == "trigger":
        return count / positions
    return positions / count if count else None


class _Search:
    """Bisection over all float32 thresholds, as if the count never rose with the threshold.

    Commits do rise, rarely and by little, where patching.max_patch_bytes ends patches: an end that a higher threshold
    leaves out moves those that are counted in multiples of max_patch_bytes from it, and may move one into the
    positions that a window answers for. Where the target is crossed several times, one crossing is found, and the
    rates on its two sides are what is said. Scratchpads never rise.
    """

    def __init__(self, section: str, count: Callable[[float], int], positions: int):
        self.section, self.count, self._positions = section, count, positions

    def rate(self, count: int) -> float | None:
        return _rate(self.section, count, self._positions)

    def find(self, target: float, config) -> tuple[float, list[float | None]]:
        """The shortest decimal whose rate is nearest to the target, and the rates on both sides of where it is crossed.

        Raises:
          UserError: no threshold comes near; says which rates are reachable.
        """
        wanted = self._positions / target if self.section == "patching" else self._positions * target
        most, least = self.count(-_BEYOND), self.count(_BEYOND)
        if most == least or not least <= round(wanted) <= most:
            raise UserError(self._unreachable(target, most, least, config))
        # Counts are whole, so some threshold crosses this.
        crossed = min(max(wanted, least + 0.5), most - 0.5)
        low, high = _number(-_BEYOND), _number(_BEYOND)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.count(_float(middle)) > crossed else (low, middle)
        counts = self.count(_float(low)), self.count(_float(high))
        above = abs(counts[0] - wanted) < abs(counts[1] - wanted)
        rates = [self.rate(n) for n in counts]
        return self._short(_float(low if above else high), down=above), rates

    def _short(self, threshold: float, down: bool) -> float:
        """The decimal of fewest digits that decides alike."""
        count, towards = self.count(threshold), math.floor if down else math.ceil
        for digits in range(2, 9):
            short = towards(threshold * 10**digits) / 10**digits
            if self.count(short) == count:
                return short
        return threshold

    def _unreachable(self, target: float, most: int, least: int, config) -> str:
        ends = [self.rate(n) for n in ((most, least) if self.section == "patching" else (least, most))]
        first, last = ("no patch at all" if rate is None else f"{rate:.6g}" for rate in ends)
        unit, kind = UNITS[self.section], config[self.section].kind
        fix = f"choose a target in between, or another {self.section}.kind than {kind!r}"
        if self.section == "patching" and target > 1:
            fix += f", or another patching.max_patch_bytes than {config.patching.max_patch_bytes}"
        flag = f"--target_{unit.replace(' ', '_')}"
        return f"{flag}={target:g}: thresholds reach from {first} to {last} {unit} on this text: {fix}"


def _number(value: float) -> int:
    """The place of a float32 among all of them, in order."""
    bits = int(np.float32(value).view(np.int32))
    return bits if bits >= 0 else -(bits & 0x7FFFFFFF)


def _float(number: int) -> float:
    """The inverse of `_number`."""
    return float(np.uint32(number if number >= 0 else -number | 0x80000000).view(np.float32))
