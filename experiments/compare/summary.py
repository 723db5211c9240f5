"""The comparison as a page: tables at equal FLOPs and at equal bytes, what the claims come to, and what is missing."""

import collections
import functools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.compare.config import PATCHIFIERS, PREDICTOR, SYSTEMS, TEXTS, TOKENS, systems
from experiments.compare.worker import POINTS
from experiments.results import NOISE, markdown, mean_and_each, shown
from scratchpatch.report import figures
from scratchpatch.report.figures import Series

_TITLES = {
    "flops": "At equal training FLOPs",
    "bytes": "At equal bytes",
}
_TEXT_NAMES = {
    "latin": "English books and Python code",
    "cjk": "Classical Chinese and Japanese",
    "latin_wide": "The books and the code again, in twice the width",
}


class Study:
    """What is measured so far, of runs that are done and of those that are not."""

    def __init__(self, folders: dict[tuple[str, int], Path]):
        self.points, self.results = {}, {}
        for run, folder in folders.items():
            for name, found in (("points.json", self.points), ("result.json", self.results)):
                if (folder / name).exists():
                    found[run] = json.loads((folder / name).read_text())

    def seeds(self, point: str, *variants: str) -> list[int]:
        """The seeds for which all of these were measured at a point, in order."""
        measured = [run for run, points in self.points.items() if point in points]
        return sorted(set.intersection(*({seed for v, seed in measured if v == one} for one in variants)))

    def values(self, point: str, variant: str, seeds: Sequence[int], key: str = "bpb") -> np.ndarray:
        """One number per seed."""
        return np.array([self.points[variant, seed][point][key] for seed in seeds])

    def mean(self, point: str, variant: str, key: str) -> float:
        """Over the seeds for which it was measured."""
        return float(self.values(point, variant, self.seeds(point, variant), key).mean())

    def texts(self) -> list[str]:
        """Those of which a system was measured at equal FLOPs."""
        return [text for text in TEXTS if any(self.seeds("flops", f"{system}-{text}") for system in SYSTEMS)]

    def difference(self, point: str, a: str, b: str) -> str | None:
        """BPB of a minus that of b, paired by seed, and whether it is a result; None where they share no seed."""
        seeds = self.seeds(point, a, b)
        return verdict(self.values(point, a, seeds) - self.values(point, b, seeds)) if seeds else None

    def spread(self, point: str, text: str) -> str | None:
        """How far the patchifiers that are measured with and without scratchpads lie apart in BPB; None of fewer than
        two.
        """

        def of(patchifier: str) -> list[str]:
            return [f"{patchifier}{suffix}-{text}" for suffix in ("", "_scratchpads")]

        measured = [patchifier for patchifier in PATCHIFIERS if self.seeds(point, *of(patchifier))]
        variants = [variant for patchifier in measured for variant in of(patchifier)]
        seeds = self.seeds(point, *variants) if len(measured) > 1 else []
        if not seeds:
            return None
        without, with_ = (
            np.ptp([self.values(point, variant, seeds) for variant in variants], axis=0)
            for variants in zip(*map(of, measured), strict=True)
        )
        told = verdict(with_ - without, "they narrow it", "they widen it")
        names = ", ".join(PATCHIFIERS[patchifier] for patchifier in measured)
        return f"of {names} {without.mean():.4f} BPB without, {with_.mean():.4f} with; the difference {told}"


def verdict(by_seed: np.ndarray, better: str = "better", worse: str = "worse") -> str:
    """The mean of differences and each of them, and what they show: below zero is better."""
    if len(by_seed) == 1:
        return f"{mean_and_each(by_seed)}: one seed, no result"
    return f"{mean_and_each(by_seed)}: {shown(by_seed, better, worse)}"


def write(folder: Path, folders: dict[tuple[str, int], Path], costs: list[dict]) -> None:
    """README.md in `folder`, and a figure of each text, from the folders of the runs by variant and seed, and what
    `cost.rows` gave.
    """
    folder.mkdir(parents=True, exist_ok=True)
    study = Study(folders)
    for text in study.texts():
        (folder / f"{text}.svg").write_text(_figure(study, text))
    (folder / "README.md").write_text(page(study, list(folders), costs))


def _figure(study: Study, text: str) -> str:
    """BPB at equal training FLOPs against what a byte costs; what scratchpads change is a line from without to with."""

    def series(label: str, systems: Sequence[str], notes: Sequence[str] = ()) -> Series:
        variants = [f"{system}-{text}" for system in systems]
        means = ([study.mean("flops", v, key) for v in variants] for key in ("flops_per_byte", "bpb"))
        return Series(label, *means, notes or [""] * len(variants))

    measured = [system for system in SYSTEMS if study.seeds("flops", f"{system}-{text}")]
    lined = {f"{system}_scratchpads": system for system in SYSTEMS if f"{system}_scratchpads" in SYSTEMS}
    drawn = []
    for with_, without in lined.items():
        if both := [system for system in (without, with_) if system in measured]:
            drawn.append(series(f"{SYSTEMS[without].name}, then with scratchpads", both))
    alone = [system for system in measured if system not in (*lined, *lined.values())]
    # Each is named beside its point, not in the legend.
    drawn += [series("", [system], [SYSTEMS[system].name]) for system in alone]
    return figures.compute_quality(drawn, "inference FLOPs per byte", f"compare-{text}")


def page(study: Study, wanted: list[tuple[str, int]], costs: list[dict]) -> str:
    """The page's Markdown. wanted: the runs that there are to be, by variant and seed."""
    wanted = [(variant, seed) for variant, seed in wanted if not variant.startswith(PREDICTOR)]
    done = [run for run in wanted if run in study.results]
    lines = [
        "# All systems on one text",
        "",
        "Every run is measured at the same training FLOPs, those of patches of 8 bytes at the bytes of the study, and "
        "at these bytes. FLOPs are useful ones as `scratchpatch.accounting` counts them: with the entropy head, the "
        "forward pass of a frozen entropy model, and what its training took. All systems have one learning rate, which "
        "was tuned for none of them and is constant after the warm-up, so one run serves for both. BPB on held-out "
        "text; seeds are paired: one fixes initialisation and "
        f"data order for every system. Differences below {NOISE} BPB on average, or of two signs, are called noise, "
        "and those of one seed nothing.",
        "",
        "Bytes per patch, trunk calls, FLOPs and KV cache are per raw byte, on the held-out text. Decoding: bytes "
        "per second of one row from its cache, beside another run. Noise: bits per byte that noise on the "
        "first half of a text costs on its clean second half. Recall: the share of values that are looked up in "
        "documents such as `m7 y6; y6 m7` (chance 0.1), by models that were not trained on any.",
        "",
        f"{len(done)} of {len(wanted)} runs are done. Everything here is written by "
        "`.venv/bin/python -m experiments.compare.run`, after each run. `config.py` says what the systems are, and "
        "the folder of each what differs from its paper.",
    ]
    for text in study.texts():
        lines += ["", f"## {_TEXT_NAMES[text]}", "", f"![BPB against inference FLOPs per byte]({text}.svg)"]
        for point, title in _TITLES.items():
            lines += ["", f"**{title}**", "", *_table(study, point, text)]
        lines += ["", "**What reproduces**: differences in BPB, on average and of each seed", "", *claims(study, text)]
    lines += ["", "## What a byte costs by patch size", "", *_costs(costs)]
    missing = collections.Counter(variant for variant, seed in wanted if (variant, seed) not in study.results)
    for text, name in _TEXT_NAMES.items():
        told = [f"`{v.partition('-')[0]}` ({n})" for v, n in missing.items() if v.endswith(f"-{text}")]
        if told:
            lines += ["", f"Runs that are not done, of {name}: {', '.join(told)}."]
    return markdown(lines)


def _table(study: Study, point: str, text: str) -> list[str]:
    corpora = list(TEXTS[text])
    lines = [
        f"| system | parameters | MB read | 10^12 FLOPs | BPB | {' | '.join(corpora)} | bytes/patch | trunk calls/byte "
        "| inference MFLOPs/byte | trunk KV bytes/byte | decoding B/s | noise | recall |",
        "|---|---|---|---|---|" + "---|" * (len(corpora) + 7),
    ]
    for system, about in SYSTEMS.items():
        variant = f"{system}-{text}"
        seeds = study.seeds(point, variant)
        if not seeds:
            continue

        mean = functools.partial(study.mean, point, variant)

        bpb, calls = study.values(point, variant, seeds), mean("commits_per_byte") + mean("scratchpads_per_byte")
        by_corpus = [[study.points[variant, s][point]["by_corpus"][corpus] for s in seeds] for corpus in corpora]
        finished = [study.results[variant, seed] for seed in seeds if (variant, seed) in study.results]
        # Tasks are asked of the last weights, which are those of the last point.
        last = finished and max(POINTS, key=lambda p: finished[0]["points"][p]["steps"]) == point
        noise, recall = (
            f"{np.mean([x['tasks'][key] for x in finished]):{form}}" if last else ""
            for key, form in (("noise_gap", "+.3f"), ("recall_accuracy", ".2f"))
        )
        cells = [
            about.name,
            f"{finished[0]['parameters'] / 1e6:.2f}M" if finished else "",
            f"{mean('training_bytes') / 1e6:.1f}",
            f"{mean('training_flops') / 1e12:.1f}",
            f"{bpb.mean():.4f} ± {np.ptp(bpb) / 2:.4f}" if len(seeds) > 1 else f"{bpb[0]:.4f} (one seed)",
            *(f"{np.mean(values):.3f}" for values in by_corpus),
            f"{1 / mean('commits_per_byte'):.2f}" if mean("commits_per_byte") else "",
            f"{calls:.3f}" if calls else "",
            f"{mean('flops_per_byte') / 1e6:.2f}",
            f"{mean('kv_bytes_per_byte'):.0f}",
            f"{max(x['decoding_bytes_per_second'] for x in finished):.0f}" if finished else "",
            noise,
            recall,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def claims(study: Study, text: str) -> list[str]:
    """What the papers' claims come to on a text: rows of a table, one for each pair of systems that is compared."""
    narrower = "Scratchpads narrow the spread of patchifiers (in the paper from 7.4 to 2.0 points of tasks)"
    pairs = {
        "Scratchpads help every patchifier": [(f"{one}_scratchpads", one) for one in PATCHIFIERS],
        "SpaceByte beats bytes with windows, and MegaByte (its table 1)": [
            ("spacebyte", "flat_windows"),
            ("spacebyte", "megabyte"),
        ],
        "SpaceByte beats words, whose patches are the same": [("spacebyte", "words")],
        "Entropy patches with n-grams (BLT) beat patches of a fixed size": [("blt", "p8")],
        "Scratchpads match tokens": [(one, TOKENS) for one in ("p8_scratchpads", "words_scratchpads")],
        "Learned patches beat words (H-Net)": [("learned", "words"), ("hnet", "words")],
        "Entropy is the best trigger, at an equal rate": [
            ("p8_scratchpads", other) for other in ("p8_stride", "p8_random")
        ],
        "Larger patches at no loss, with scratchpads": [
            ("p16_scratchpads", "flat"),
            ("p16_scratchpads", "p8_scratchpads"),
            ("p16_scratchpads", "p4_scratchpads"),
            ("p16", "p8"),
            ("p16", "p4"),
        ],
    }
    rows = ["| claim | compared | at equal training FLOPs | at equal bytes |", "|---|---|---|---|"]
    spreads = [study.spread(point, text) or "" for point in ("flops", "bytes")]
    rows.append(f"| {narrower} | with against without | {' | '.join(spreads)} |")
    for claim, compared in pairs.items():
        for one, other in compared:
            if not {one, other} <= set(systems(text)):
                continue
            points = [study.difference(p, f"{one}-{text}", f"{other}-{text}") or "" for p in ("flops", "bytes")]
            rows.append(f"| {claim} | {SYSTEMS[one].name} against {SYSTEMS[other].name} | {' | '.join(points)} |")
    return rows


_COSTING = {"p8": "patches", "p8_scratchpads": "patches, scratchpads", "megabyte": "MegaByte", "flat": "flat bytes"}


def _costs(costs: list[dict]) -> list[str]:
    flat = next(cost for cost in costs if cost["system"] == "flat")
    lines = [
        "A forward pass of random weights over whole rows, measured in turns on this machine; scratchpads at a rate of "
        "1/8, each with its entropy head.",
        "",
        "| system | bytes/patch | MFLOPs/byte | of these trunk | microseconds/byte | FLOPs, of the flat model's "
        "| time, of the flat model's |",
        "|---|---|---|---|---|---|---|",
    ]
    for cost in costs:
        lines.append(
            f"| {_COSTING[cost['system']]} | {cost['patch_bytes']} "
            f"| {cost['flops'] / 1e6:.2f} | {cost['trunk'] / cost['flops']:.0%} | {cost['seconds'] * 1e6:.1f} "
            f"| {cost['flops'] / flat['flops']:.2f} | {cost['seconds'] / flat['seconds']:.2f} |"
        )
    return lines
