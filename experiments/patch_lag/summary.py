"""The patch-lag study as a page: table, curves, and what they show with its uncertainty."""

import json
from pathlib import Path

import numpy as np

from experiments.patch_lag.config import BASES, VARIANTS
from scratchpatch.report import figures
from scratchpatch.report.figures import Series

# Two seeds of one model differed by 0.04 BPB in a prototype: nothing below this is called a result.
NOISE = 0.01
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


class Study:
    """Results by variant and seed."""

    def __init__(self, results: dict[tuple[str, int], dict]):
        self.results = results
        self.seeds = sorted({seed for _, seed in results})

    def of(self, variant: str, key: str) -> np.ndarray:
        """One number per seed."""
        return np.array([self.results[variant, seed][key] for seed in self.seeds])

    def curve(self, variant: str, inner: str | None = None) -> np.ndarray:
        """BPB by offset in a patch of 16 bytes, mean over seeds."""
        rows = [self.results[variant, seed] for seed in self.seeds]
        return np.mean([(row[inner] if inner else row)["bpb_by_offset"] for row in rows], axis=0)

    def difference(self, a: str, b: str) -> str:
        """BPB of a minus b, paired by seed, and whether it is a result."""
        d = self.of(a, "bpb") - self.of(b, "bpb")
        each = ", ".join(f"{x:+.4f}" for x in d)
        if abs(d.mean()) < NOISE or (len(d) > 1 and (np.sign(d) != np.sign(d[0])).any()):
            return f"{d.mean():+.4f} ({each}): within noise"
        return f"{d.mean():+.4f} ({each}): {'worse' if d.mean() > 0 else 'better'}"

    def at_equal_flops(self, variant: str, suffix: str) -> str:
        """BPB of a variant minus that of plain smaller patches at its FLOPs per byte (log-linear between sizes)."""
        plain = ["p16" + suffix, "p8" + suffix, "p4" + suffix, "byte"]
        found = []
        for i in range(len(self.seeds)):
            cost = np.log([self.of(v, "flops_per_byte")[i] for v in plain])
            bpb = [self.of(v, "bpb")[i] for v in plain]
            found.append(self.of(variant, "bpb")[i] - np.interp(np.log(self.of(variant, "flops_per_byte")[i]), cost, bpb))
        d = np.array(found)
        each = ", ".join(f"{x:+.4f}" for x in d)
        clear = abs(d.mean()) >= NOISE and (np.sign(d) == np.sign(d[0])).all()
        return f"{d.mean():+.4f} ({each})" + ("" if clear else ": within noise")


def write(folder: Path, files: dict[tuple[str, int], Path]) -> None:
    """README.md, patch_lag.svg and compute.svg in `folder`, from the runs' result.json."""
    study = Study({job: json.loads(path.read_text()) for job, path in files.items()})
    offsets = list(range(1, 17))
    order = lambda curve: [*curve[1:], curve[0]]  # noqa: E731  the 16th byte of a patch reads the new commit
    shown = ("p4_last", "p16_last", "p16_entropy_last", "p16_stride_last", "p16_random_last", "p16_every_last")
    curves = [Series(NAMES[v.removesuffix("_last")], offsets, order(study.curve(v) - study.curve("byte"))) for v in shown]
    lag = figures.patch_lag(curves, x_label="byte of a 16-byte patch (16: its commit)", y_label="BPB above the byte-level model at the same byte", name="lag-study")
    (folder / "patch_lag.svg").write_text(lag)
    points = lambda names: ([study.of(v, "flops_per_byte").mean() for v in names], [study.of(v, "bpb").mean() for v in names])  # noqa: E731
    plain, kinds = ["p16_last", "p8_last", "p4_last", "byte"], ("entropy", "stride", "random", "every")
    clouds = [Series("plain patches and byte-level", *points(plain), notes=["p=16", "p=8", "p=4", "byte-level"])]
    clouds += [Series(NAMES[f"p16_{kind}"], *points([f"p16_{kind}_last"])) for kind in kinds]
    (folder / "compute.svg").write_text(figures.compute_quality(clouds, x_label="FLOPs per byte", name="compute-study"))
    (folder / "README.md").write_text(page(study))


def page(study: Study) -> str:
    """The page's Markdown."""
    first = study.results["p16", study.seeds[0]]
    head = [
        "# Patch lag: what stale patches cost, and what scratchpads give back",
        "",
        f"Models of {first['parameters'] / 1e6:.2f}M parameters (p=16), most of them in a trunk of 4 layers, local windows of 16 bytes; "
        f"{first['training_bytes'] / 1e6:.2f} MB of training bytes, half English books, half Python code; {len(study.seeds)} seeds, "
        "paired: a seed fixes initialisation and data order for every variant. BPB on held-out books and code. "
        f"Mean over seeds, ± half the spread; differences below {NOISE} BPB, or of differing sign between seeds, are not called results.",
        "",
        "Everything here is written by `.venv/bin/python -m experiments.patch_lag.run` (2 CPU cores, about 40 minutes).",
        "",
        "| variant | last_state | BPB | books | code | trunk calls/byte | trunk KV bytes/byte | MFLOPs/byte |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join(head + _rows(study) + [""] + _in_short(study) + ["", "![Patch-lag curves](patch_lag.svg)", "", "![BPB against compute](compute.svg)", ""] + _findings(study)) + "\n"


def _in_short(study: Study) -> list[str]:
    """The three questions of the study, answered from its numbers."""
    sparse = ("entropy", "stride", "random")
    gap, left = (study.difference(v, "byte") for v in ("p16", "p16_every_last"))
    carried = [study.difference(f"p16_{kind}_last", f"p16_{kind}") for kind in sparse]
    equal = [study.at_equal_flops(f"p16_{kind}{suffix}", suffix) for kind in sparse for suffix in ("", "_last")]
    used = [
        study.results[f"p16_{kind}{suffix}", s]["without_scratchpads"]["bpb"] - study.results[f"p16_{kind}{suffix}", s]["bpb"]
        for kind in sparse
        for suffix in ("", "_last")
        for s in study.seeds
    ]
    noise = lambda texts: f"{sum('within noise' in t for t in texts)} of {len(texts)} within noise"  # noqa: E731
    return [
        f"- **What patches of 16 bytes cost**: {gap}. With scratchpads at every byte and `last_state`: {left}.",
        f"- **Does `last_state` carry over to sparse scratchpads?** With it against without, entropy, stride, random: {noise(carried)}.",
        f"- **Do sparse scratchpads beat smaller patches at equal FLOPs, head included?** {noise(equal)}; none is a result in their favour."
        if not any(t.startswith("-") and "noise" not in t for t in equal)
        else f"- **Do sparse scratchpads beat smaller patches at equal FLOPs, head included?** {noise(equal)}; see below.",
        f"- **How much do these models use their scratchpads?** Taking them away from the trained weights costs {min(used):+.4f} to {max(used):+.4f} BPB "
        "where they are sparse: after so few bytes the local layers do nearly all of the work, and a small effect of lag can neither be shown nor excluded.",
    ]


def _rows(study: Study) -> list[str]:
    rows = []
    for base in BASES:
        for v in (base, f"{base}_last"):
            if v not in VARIANTS:
                continue
            bpb = study.of(v, "bpb")
            mean = lambda key, v=v: study.of(v, key).mean()  # noqa: E731
            rows.append(
                f"| {NAMES[base]} | {'the same' if base == 'byte' else 'with' if v != base else 'without'} | {bpb.mean():.4f} ± {np.ptp(bpb) / 2:.4f} "
                f"| {mean('books'):.3f} | {mean('code'):.3f} | {mean('trunk_calls_per_byte'):.3f} "
                f"| {mean('kv_bytes_per_byte'):.0f} | {mean('flops_per_byte') / 1e6:.2f} |"
            )
    return rows


def _findings(study: Study) -> list[str]:
    lines = ["## What it shows", "", "Differences in BPB, mean over seeds (each seed); below zero: better."]
    gap = study.of("p16", "bpb") - study.of("byte", "bpb")
    lines += ["", f"**The gap.** p=16 against byte-level: {study.difference('p16', 'byte')}."]
    for suffix, title in (("", "without `last_state`"), ("_last", "with `last_state`")):
        lines += ["", f"**Scratchpads, {title}.**", ""]
        for kind in ("entropy", "stride", "random", "every"):
            v = f"p16_{kind}{suffix}"
            share = (study.of(f"p16{suffix}", "bpb") - study.of(v, "bpb")) / gap
            lines.append(
                f"- {NAMES[f'p16_{kind}']}: against p=16 {study.difference(v, 'p16' + suffix)} "
                f"({100 * share.mean():.0f}% of the gap); against byte-level {study.difference(v, 'byte')}."
            )
    lines += ["", "**Equal trunk calls** (0.25 per byte; scratchpads keep a quarter of the KV cache of p=4).", ""]
    for suffix in ("", "_last"):
        for kind in ("entropy", "stride", "random"):
            lines.append(f"- {NAMES[f'p16_{kind}']}{suffix.replace('_', ', ')} against p=4: {study.difference(f'p16_{kind}{suffix}', 'p4' + suffix)}.")
    lines += ["", "**Equal FLOPs, entropy head included** (against plain patches and byte-level, interpolated in log FLOPs).", ""]
    for suffix in ("", "_last"):
        for kind in ("entropy", "stride", "random", "every"):
            v = f"p16_{kind}{suffix}"
            lines.append(f"- {NAMES[f'p16_{kind}']}{suffix.replace('_', ', ')}: {study.at_equal_flops(v, suffix)}.")
    lines += ["", "**Which trigger**, at equal rate.", ""]
    for suffix in ("", "_last"):
        lines.append(f"- entropy against random{suffix.replace('_', ', ')}: {study.difference(f'p16_entropy{suffix}', f'p16_random{suffix}')}.")
        lines.append(f"- entropy against stride{suffix.replace('_', ', ')}: {study.difference(f'p16_entropy{suffix}', f'p16_stride{suffix}')}.")
    lines += ["", "**`last_state`**: with it against without.", ""]
    lines += [f"- {NAMES[base]}: {study.difference(base + '_last', base)}." for base in BASES if base != "byte"]
    lines += ["", "**The lag curve on the same weights**: BPB at the stale end of the patch (bytes 12-15) minus that at its fresh end (bytes 0-3).", ""]
    lines.append(f"- byte-level, the text's own trend: {_slope(study.curve('byte')):+.4f}.")
    for v in ("p16", "p16_last"):
        lines.append(f"- {v.replace('_', ', ')}: {_slope(study.curve(v)):+.4f}.")
    for kind in ("entropy", "stride", "every"):
        for suffix in ("", "_last"):
            v = f"p16_{kind}{suffix}"
            gain = np.mean([study.results[v, s]["without_scratchpads"]["bpb"] - study.results[v, s]["bpb"] for s in study.seeds])
            lines.append(
                f"- {NAMES[f'p16_{kind}']}{suffix.replace('_', ', ')}: {_slope(study.curve(v)):+.4f}; the same weights without their scratchpads "
                f"{_slope(study.curve(v, 'without_scratchpads')):+.4f}, and {gain:+.4f} BPB worse over all."
            )
    return lines


def _slope(curve: np.ndarray) -> float:
    return float(curve[12:16].mean() - curve[0:4].mean())
