"""The patch-lag study as a page: table, curves, and what they show with its uncertainty."""

import json
from pathlib import Path

import numpy as np

from experiments.patch_lag.config import BASES, CONCAT, VARIANTS
from experiments.results import NOISE, Results, markdown, mean_and_each, within_noise
from scratchpatch.report import figures
from scratchpatch.report.figures import Series

NAMES = {
    "byte": "byte-level",
    "p4": "p=4",
    "p8": "p=8",
    "p16": "p=16",
    "p16_entropy": "p=16 + entropy, r=3/16",
    "p16_stride": "p=16 + stride 4, r=3/16",
    "p16_random": "p=16 + random, r=3/16",
    "p16_every": "p=16 + every byte",
}
SPARSE = ("entropy", "stride", "random")
TRIGGERS = (*SPARSE, "every")
SUFFIXES = ("", "_last")
# What the table says of last_state.
_WORDS = {"": "without", "_last": "with", "_concat": "without, concat"}


class Study(Results):
    """Results by variant and seed."""

    def mean(self, variant: str, key: str) -> float:
        return self.values(variant, key).mean()

    def curve(self, variant: str, inner: str | None = None) -> np.ndarray:
        """BPB by offset in a patch of 16 bytes, mean over seeds."""
        rows = [self.results[variant, seed] for seed in self.seeds]
        return np.mean([(row[inner] if inner else row)["bpb_by_offset"] for row in rows], axis=0)

    def cost_of_removal(self, variant: str) -> list[float]:
        """BPB that the trained weights lose without their scratchpads, per seed."""
        rows = [self.results[variant, seed] for seed in self.seeds]
        return [row["without_scratchpads"]["bpb"] - row["bpb"] for row in rows]

    def at_equal_flops(self, variant: str, suffix: str) -> str:
        """BPB of a variant minus that of plain smaller patches at its FLOPs per byte (log-linear between sizes)."""
        plain = ["p16" + suffix, "p8" + suffix, "p4" + suffix, "byte"]
        by_seed = []
        for i in range(len(self.seeds)):
            cost = np.log([self.values(v, "flops_per_byte")[i] for v in plain])
            bpb = [self.values(v, "bpb")[i] for v in plain]
            wanted = np.log(self.values(variant, "flops_per_byte")[i])
            by_seed.append(self.values(variant, "bpb")[i] - np.interp(wanted, cost, bpb))
        difference = np.array(by_seed)
        return mean_and_each(difference) + (": within noise" if within_noise(difference) else "")


def write(folder: Path, files: dict[tuple[str, int], Path]) -> None:
    """README.md, patch_lag.svg and compute.svg in `folder`, from the runs' result.json."""
    study = Study({run: json.loads(path.read_text()) for run, path in files.items()})
    (folder / "patch_lag.svg").write_text(_curves(study))
    (folder / "compute.svg").write_text(_costs(study))
    (folder / "README.md").write_text(page(study))


def _curves(study: Study) -> str:
    variants = ("p4_last", "p16_last", "p16_entropy_last", "p16_stride_last", "p16_random_last", "p16_every_last")
    series = []
    for variant in variants:
        above = study.curve(variant) - study.curve("byte")
        # The 16th byte of a patch reads the new commit, so its offset is 0.
        heights = [*above[1:], above[0]]
        series.append(Series(NAMES[variant.removesuffix("_last")], list(range(1, 17)), heights))
    return figures.patch_lag(
        series,
        x_label="byte of a 16-byte patch (16: its commit)",
        y_label="BPB above the byte-level model at the same byte",
        name="lag-study",
    )


def _costs(study: Study) -> str:
    plain = ["p16_last", "p8_last", "p4_last", "byte"]
    series = [
        Series("plain patches and byte-level", *_points(study, plain), notes=["p=16", "p=8", "p=4", "byte-level"])
    ]
    series += [Series(NAMES[f"p16_{kind}"], *_points(study, [f"p16_{kind}_last"])) for kind in TRIGGERS]
    return figures.compute_quality(series, x_label="FLOPs per byte", name="compute-study")


def _points(study: Study, variants: list[str]) -> tuple[list[float], list[float]]:
    return [study.mean(v, "flops_per_byte") for v in variants], [study.mean(v, "bpb") for v in variants]


def page(study: Study) -> str:
    """The page's Markdown."""
    first = study.of_first_seed("p16")
    lines = [
        "# Patch lag: what stale patches cost, and what scratchpads give back",
        "",
        f"Models of {first['parameters'] / 1e6:.2f}M parameters (p=16), most of them in a trunk of 4 layers, local "
        f"windows of 16 bytes; {first['training_bytes'] / 1e6:.2f} MB of training bytes, half English books, half "
        f"Python code; {len(study.seeds)} seeds, paired: a seed fixes initialisation and data order for every "
        "variant. BPB on held-out books and code. Mean over seeds, ± half the spread; differences below "
        f"{NOISE} BPB, or of differing sign between seeds, are not called results.",
        "",
        "Everything here is written by `.venv/bin/python -m experiments.patch_lag.run` "
        "(2 CPU cores, about 40 minutes).",
        "",
        "| variant | last_state | BPB | books | code | trunk calls/byte | trunk KV bytes/byte | MFLOPs/byte |",
        "|---|---|---|---|---|---|---|---|",
        *_rows(study),
        "",
        *_in_short(study),
        "",
        "![Patch-lag curves](patch_lag.svg)",
        "",
        "![BPB against compute](compute.svg)",
        "",
        *_findings(study),
    ]
    return markdown(lines)


def _in_short(study: Study) -> list[str]:
    """The three questions of the study, answered from its numbers."""
    gap, left = (study.difference(v, "byte") for v in ("p16", "p16_every_last"))
    carried = [study.difference(f"p16_{kind}_last", f"p16_{kind}") for kind in SPARSE]
    variants = [(f"p16_{kind}{suffix}", suffix) for kind in SPARSE for suffix in SUFFIXES]
    equal = [study.at_equal_flops(variant, suffix) for variant, suffix in variants]
    cost = [lost for variant, _ in variants for lost in study.cost_of_removal(variant)]
    in_favour = any(text.startswith("-") and "noise" not in text for text in equal)
    return [
        f"- **What patches of 16 bytes cost**: {gap}. With scratchpads at every byte and `last_state`: {left}.",
        "- **Does `last_state` carry over to sparse scratchpads?** With it against without, entropy, stride, random: "
        f"{_share_of_noise(carried)}.",
        "- **Do sparse scratchpads beat smaller patches at equal FLOPs, head included?** "
        f"{_share_of_noise(equal)}; {'see below' if in_favour else 'none is a result in their favour'}.",
        "- **How much do these models use their scratchpads?** Taking them away from the trained weights costs "
        f"{min(cost):+.4f} to {max(cost):+.4f} BPB where they are sparse: after so few bytes the local layers do "
        "nearly all of the work, and a small effect of lag can neither be shown nor excluded.",
    ]


def _share_of_noise(differences: list[str]) -> str:
    return f"{sum('within noise' in text for text in differences)} of {len(differences)} within noise"


def _rows(study: Study) -> list[str]:
    rows = []
    for base in BASES:
        for suffix, words in _WORDS.items():
            variant = base + suffix
            if variant not in VARIANTS:
                continue
            bpb = study.values(variant, "bpb")
            rows.append(
                f"| {NAMES[base]} "
                f"| {'the same' if base == 'byte' else words} "
                f"| {bpb.mean():.4f} ± {np.ptp(bpb) / 2:.4f} "
                f"| {study.mean(variant, 'books'):.3f} | {study.mean(variant, 'code'):.3f} "
                f"| {study.mean(variant, 'trunk_calls_per_byte'):.3f} "
                f"| {study.mean(variant, 'kv_bytes_per_byte'):.0f} "
                f"| {study.mean(variant, 'flops_per_byte') / 1e6:.2f} |"
            )
    return rows


def _findings(study: Study) -> list[str]:
    lines = ["## What it shows", "", "Differences in BPB, mean over seeds (each seed); below zero: better."]
    gap = study.values("p16", "bpb") - study.values("byte", "bpb")
    lines += ["", f"**The gap.** p=16 against byte-level: {study.difference('p16', 'byte')}."]
    for suffix, title in (("", "without `last_state`"), ("_last", "with `last_state`")):
        lines += ["", f"**Scratchpads, {title}.**", ""]
        for kind in TRIGGERS:
            variant, plain = f"p16_{kind}{suffix}", f"p16{suffix}"
            share = (study.values(plain, "bpb") - study.values(variant, "bpb")) / gap
            lines.append(
                f"- {NAMES[f'p16_{kind}']}: against p=16 {study.difference(variant, plain)} "
                f"({100 * share.mean():.0f}% of the gap); against byte-level {study.difference(variant, 'byte')}."
            )
    lines += ["", "**Equal trunk calls** (0.25 per byte; scratchpads keep a quarter of the KV cache of p=4).", ""]
    for suffix in SUFFIXES:
        for kind in SPARSE:
            difference = study.difference(f"p16_{kind}{suffix}", "p4" + suffix)
            lines.append(f"- {_name(kind, suffix)} against p=4: {difference}.")
    lines += [
        "",
        "**Equal FLOPs, entropy head included** (against plain patches and byte-level, interpolated in log FLOPs).",
        "",
    ]
    for suffix in SUFFIXES:
        for kind in TRIGGERS:
            lines.append(f"- {_name(kind, suffix)}: {study.at_equal_flops(f'p16_{kind}{suffix}', suffix)}.")
    lines += ["", "**Which trigger**, at equal rate.", ""]
    for suffix in SUFFIXES:
        for other in ("random", "stride"):
            difference = study.difference(f"p16_entropy{suffix}", f"p16_{other}{suffix}")
            lines.append(f"- entropy against {other}{_spelt(suffix)}: {difference}.")
    lines += ["", "**`last_state`**: with it against without.", ""]
    lines += [f"- {NAMES[base]}: {study.difference(base + '_last', base)}." for base in BASES if base != "byte"]
    lines += ["", *concatenation(study)]
    lines += [
        "",
        "**The lag curve on the same weights**: BPB at the stale end of the patch (bytes 12-15) minus that at its "
        "fresh end (bytes 0-3).",
        "",
        f"- byte-level, the text's own trend: {_slope(study.curve('byte')):+.4f}.",
    ]
    lines += [f"- p16{_spelt(suffix)}: {_slope(study.curve(f'p16{suffix}')):+.4f}." for suffix in SUFFIXES]
    for kind in ("entropy", "stride", "every"):
        for suffix in SUFFIXES:
            variant = f"p16_{kind}{suffix}"
            lines.append(
                f"- {_name(kind, suffix)}: {_slope(study.curve(variant)):+.4f}; the same weights without their "
                f"scratchpads {_slope(study.curve(variant, 'without_scratchpads')):+.4f}, and "
                f"{np.mean(study.cost_of_removal(variant)):+.4f} BPB worse over all."
            )
    return lines


def concatenation(study: Results) -> list[str]:
    """What `pooling.kind = concat` does against the default pooling with `last_state`."""
    lines = ["**`pooling.kind = concat`**: the bytes of a patch one behind the other, instead of pooled.", ""]
    for variant in CONCAT:
        base = variant.removesuffix("_concat")
        more = study.of_first_seed(variant)["parameters"] - study.of_first_seed(f"{base}_last")["parameters"]
        lines.append(
            f"- {NAMES[base]}: against pooling with `last_state` {study.difference(variant, f'{base}_last')}; against "
            f"byte-level {study.difference(variant, 'byte')}; {more:+,} parameters."
        )
    return lines


def _name(kind: str, suffix: str) -> str:
    return NAMES[f"p16_{kind}"] + _spelt(suffix)


def _spelt(suffix: str) -> str:
    return suffix.replace("_", ", ")


def _slope(curve: np.ndarray) -> float:
    return float(curve[12:16].mean() - curve[0:4].mean())
