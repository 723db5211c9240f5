"""The recall study as a page: tables, a figure, and what they show."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.recall.config import PATCHES, POOLINGS, TRIGGERS
from experiments.recall.training import LEARNED
from experiments.results import markdown
from scratchpatch.errors import UserError
from scratchpatch.report import figures
from scratchpatch.report.figures import Series

_POOLED = {
    "mean": "mean",
    "last": "last",
    "cross": "cross_attention",
    "cross+last": "cross_attention + last_state",
    "max+last": "max_query + last_state",
    "concat": "concat",
}
_FIRED = {
    "none": "none",
    "entropy": "entropy, r=1/4",
    "stride": "every 4th byte",
    "keys": "each key",
    "every": "every byte",
}
DEFAULT = "cross+last"
# Documents and learning rate of the main table and of its comparisons.
SHAPE, RATE = (6, 0), 1e-3
_CURVES = ("byte", "p4_none_cross+last", "p4_every_cross+last", "p8_none_cross+last", "p8_every_cross+last")
_DRAWN = (*_CURVES, "p8_every_concat", "p16_every_cross+last", "p16_every_concat")
# What was learnt before the documents and the rate were those of GRID; the runs are not part of it.
_BEFORE = (
    "**Which documents, which learning rate.** This page was begun with harder documents: each key asked once, in "
    "another order, 16 dots before the first question, so that a document has 6 answers instead of 24. At a rate of "
    "3e-3, which the first trial of this question had, nothing learnt them within 650 to 2,300 steps, the byte-level "
    "model included (at most 39% of the values: `last` at p=3, one of two seeds). The default pooling at p=3 with a "
    "scratchpad at every byte learnt them at 1e-3 (90% after 450 to 575 steps, four runs) and at 5e-4 (400 and 425), "
    "and not at 2e-3 in 1,000 steps. So the trial's finding, that the default pooling hides what scratchpads give and "
    "`last` alone shows it, was that of a learning rate too high for models of this kind, at which chance decides what "
    "is learnt. At p=8 no pooling learnt those documents in 1,500 steps at 1e-3, but for one seed of `concat` (34% of "
    "the values) and one without scratchpads (41%).",
    "",
    "**Why entropy does not help.** In a run of 400 steps (p=8, entropy, default pooling, CPU) the entropy head gave "
    "3.3 bits to the digit behind a question's key, and 4.7 bits to the key itself: it sees 8 bytes, and from those "
    "any of 26 letters is harder to guess than any of 10 digits. So 61% of the bytes before a question's key had a "
    "scratchpad, and of the keys themselves, behind which something is to be looked up, none: the context is refreshed "
    "one byte too early, before the question is known. Bytes that must be looked up are not those that are hard to "
    "guess nearby.",
    "",
    "**Other poolings that were tried** on today's documents, p=8, a scratchpad at every byte, and are not in the "
    "package: the last byte as the query of an attention over states with a learnt vector for each place, and "
    "`last_state` beside it: 0.84 and 0.86 of the values, as `last` alone.",
    "",
    "The runs on the GPU that this page tells of had fewer steps at most where patches are small: 1,000 at byte-level, "
    "1,200 at p=3, 2,000 at p=4. Runs on CPU cores have one seed, and 1,000 or 1,200 steps at most.",
)


class Study:
    """Lanes of all runs, by variant, shape of documents and learning rate."""

    def __init__(self, runs: Sequence[dict]):
        self.lanes: dict[tuple, list[dict]] = {}
        for run in runs:
            for result in run["lanes"]:
                lane = result["lane"]
                key = run["variant"], (lane["pairs"], lane["distance"]), lane["learning_rate"]
                self.lanes.setdefault(key, []).append(result)
        for results in self.lanes.values():
            results.sort(key=lambda result: result["lane"]["seed"])

    def results(self, variant: str, shape=SHAPE, rate: float = RATE) -> list[dict]:
        """Results by seed; none of what was not trained."""
        return self.lanes.get((variant, shape, rate), [])

    def accuracy(self, variant: str, shape=SHAPE, rate: float = RATE) -> float | None:
        """Mean over seeds."""
        results = self.results(variant, shape, rate)
        return float(np.mean([result["accuracy"] for result in results])) if results else None

    def told(self, variant: str, **which) -> str:
        """The accuracy as text."""
        accuracy = self.accuracy(variant, **which)
        return "not measured" if accuracy is None else f"{accuracy:.2f}"


def write(folder: Path, files: Sequence[Path]) -> None:
    """README.md and recall.svg in `folder`, from the runs' result.json.

    Raises:
      UserError: there is none.
    """
    if not files:
        raise UserError("no run is finished: train some before the page is written (--train=1)")
    study = Study([json.loads(path.read_text()) for path in files])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recall.svg").write_text(_figure(study))
    (folder / "README.md").write_text(page(study))


def _figure(study: Study) -> str:
    series = []
    for variant in _DRAWN:
        for result in study.results(variant)[:1]:
            # Every 4th measurement, so that marks do not cover the curves.
            steps, accuracies, _ = zip(*result["curve"][3::4], strict=True)
            series.append(Series(name(variant), steps, accuracies))
    return figures.by_step(series, "share of values that are right", "recall")


def name(variant: str) -> str:
    """How the page calls a variant."""
    if variant == "byte":
        return "byte-level"
    patch, trigger, pooling = variant.split("_")
    pooled = "" if pooling == DEFAULT else f", {_POOLED[pooling]}"
    return f"p={patch[1:]}, {'no scratchpads' if trigger == 'none' else _FIRED[trigger]}{pooled}"


def page(study: Study) -> str:
    """The page's Markdown."""
    every = [result for results in study.lanes.values() for result in results]
    devices = sorted({result["device"] for result in every})
    dates = sorted({result["date"] for result in every})
    seconds = [result["seconds"] for result in every if result["device"] != "cpu"]
    return markdown([
        "# Recall: what must be looked up, and what pooling forgets",
        "",
        "Documents of 6 pairs and 24 questions, such as `m7 y6 n4; y6 m7 y6 n4`: letters are keys and digits their "
        "values, drawn by a seed, a key asked again and again. The digit behind a key that was just asked stands in "
        "its pair alone, beyond the 8 bytes that a local layer sees; a guess is right in 0.10 of the cases and costs "
        "3.32 bits. Models: one layer of width 64 on each side of a trunk of 2 layers of width 128, windows of 256 "
        "bytes, 16 rows a step, a constant learning rate. A run ends once 99% of the values are right in two "
        "measurements running, or after 2,500 steps. One number for each seed, of weights and of documents; measured "
        "on 32 rows of other documents every 25 steps. `fresh keys`: the share of questions at whose key the trunk "
        "runs, as a commit or as a scratchpad.",
        "",
        "Everything here is written by `.venv/bin/python -m experiments.recall.run`. "
        + f"Trained on: {', '.join(_machine(device, every) for device in devices)}; {' to '.join(dates)}."
        + (f" On the GPU the runs of a cell, side by side, took {min(seconds):.0f} to {max(seconds):.0f} s "
           "beside compiling, two cells at a time." if seconds else ""),
        "",
        *_in_short(study),
        "",
        "![Accuracy by step, of the first seed](recall.svg)",
        "",
        "## Six pairs, questions right behind them",
        "",
        *_table(study, SHAPE),
        "",
        *_others(study),
        "## How it was found",
        "",
        *_BEFORE,
    ])


def _machine(device: str, every: list[dict]) -> str:
    count = sum(result["device"] == device for result in every)
    return f"{'CPU cores' if device == 'cpu' else device} ({count} runs)"


def _in_short(study: Study) -> list[str]:
    steps = {variant: _learned(study.results(variant)) for variant in ("byte", "p3_every_cross+last", "p3_every_last")}
    fast = {variant: study.told(variant, rate=3e-3) for variant in ("byte", "p3_every_cross+last", "p3_every_last")}
    return [
        "- **Do scratchpads show?** Plainly. Values right without scratchpads and with one at every byte, default "
        "pooling: "
        + "; ".join(
            f"p={patch}: {study.told(f'p{patch}_none_{DEFAULT}')} and {study.told(f'p{patch}_every_{DEFAULT}')}"
            for patch in (3, 4, 8, 16)
        )
        + ". At p=3 each patch ends with a key: its commit refreshes the context where a scratchpad would.",
        "- **Does the default pooling hide them?** No: at p=3 with a scratchpad at every byte it is the fastest of "
        f"all, 90% after {steps['p3_every_cross+last']} steps (byte-level {steps['byte']}, `last` "
        f"{steps['p3_every_last']}), with a third of the byte-level model's cache. At a learning rate of 3e-3 the "
        f"same models reach {fast['p3_every_cross+last']} (byte-level {fast['byte']}, `last` {fast['p3_every_last']}) "
        "within 1,000 to 1,200 steps: that rate is too high for them, see below.",
        "- **What does pooling forget?** The second and third pair of a patch. At p=8 every way into one vector of a "
        f"byte's width ends alike (default {study.told('p8_every_cross+last')}, `last` {study.told('p8_every_last')}, "
        f"`max_query` {study.told('p8_every_max+last')}), and the bytes one behind the other "
        f"(`pooling.kind = concat`) at {study.told('p8_every_concat')}. At p=16: "
        f"{_at_equal_steps(study, 'p16_every')}.",
        "- **Do sparse scratchpads show?** At p=8, default pooling: none "
        f"{study.told('p8_none_cross+last')}, every 4th byte {study.told('p8_stride_cross+last')}, by entropy "
        f"{study.told('p8_entropy_cross+last')}: not to be told apart, because they stand in the wrong places (below). "
        f"With `concat`: every 4th byte {study.told('p8_stride_concat')}, by entropy "
        f"{study.told('p8_entropy_concat')}; at keys alone, which the trigger `marks` is told, "
        f"{study.told('p8_keys_concat')}, with {_calls(study, 'p8_keys_concat')} trunk calls a byte instead of 1.",
    ]


def _at_equal_steps(study: Study, base: str) -> str:
    """The default pooling and concat after as many steps as both have."""
    pair = [study.results(f"{base}_{pooling}") for pooling in (DEFAULT, "concat")]
    if not all(pair):
        return "not measured"
    steps = min(len(result["curve"]) for results in pair for result in results)
    default, concat = (np.mean([result["curve"][steps - 1][1] for result in results]) for results in pair)
    return f"after {pair[0][0]['curve'][steps - 1][0]:,} steps, the default {default:.2f} and `concat` {concat:.2f}"


def _calls(study: Study, *which) -> str:
    """Of the trunk, a byte."""
    results = study.results(*which)
    rates = [result["commits_per_byte"] + result["scratchpads_per_byte"] for result in results]
    return f"{np.mean(rates):.2f}" if results else "fewer"


def _others(study: Study) -> list[str]:
    lines = []
    for shape in sorted({shape for _, shape, _ in study.lanes} - {SHAPE}):
        pairs, distance = shape
        title = f"{pairs} pairs" + (f", {distance} dots before the questions" if distance else "")
        lines += [f"## {title}", "", *_table(study, shape), ""]
    return lines


def _order(variant: str) -> tuple:
    if variant == "byte":
        return (-1,)
    patch, trigger, pooling = variant.split("_")
    return PATCHES.index(patch), TRIGGERS.index(trigger), list(POOLINGS).index(pooling)


def _table(study: Study, shape: tuple[int, int]) -> list[str]:
    rows = [
        "| patch | scratchpads | pooling | learning rate | values right | bits per value | steps until 90% | steps "
        "| fresh keys | trunk calls/byte | trunk KV bytes/byte | machine |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for variant, _, rate in sorted((key for key in study.lanes if key[1] == shape), key=lambda k: (_order(k[0]), k[2])):
        results = study.results(variant, shape, rate)
        patch, trigger, pooling = ("byte-level", "", "") if variant == "byte" else variant.split("_")
        patch = f"p={patch[1:]}" if trigger else patch
        rows.append(
            f"| {patch} | {_FIRED.get(trigger, '')} | {_POOLED.get(pooling, '')} | {rate:g} "
            f"| {_each(results, 'accuracy', '.3f')} | {_each(results, 'bits', '.3f')} "
            f"| {_learned(results)} | {results[0]['steps']:,} | {_fresh(results)} "
            f"| {_calls(study, variant, shape, rate)} "
            f"| {np.mean([result['kv_bytes_per_byte'] for result in results]):.0f} "
            f"| {'CPU' if results[0]['device'] == 'cpu' else 'GPU'} |"
        )
    return rows


def _each(results: list[dict], key: str, style: str) -> str:
    return ", ".join(format(result[key], style) for result in results)


def _fresh(results: list[dict]) -> str:
    """The share of questions at whose key the trunk runs; nothing where it was not measured."""
    shares = [result["fresh"] for result in results if "fresh" in result]
    return f"{np.mean(shares):.2f}" if shares else ""


def _learned(results: list[dict]) -> str:
    """Steps until LEARNED of the values were right, by seed."""
    assert LEARNED == 0.9, "the page says 90%"
    return " and ".join(str(result["learned"] or "never") for result in results) or "not measured"
