"""The rate of boundaries while routers learn: a table for README.md, and rates.svg, from the metrics of some runs.

Purpose: see whether a router collapses, to boundaries nearly everywhere or nearly nowhere.
Command, after the runs (a variant's name each, see config.py):
    .venv/bin/python -m experiments.hnet.rates runs/hnet_plain runs/hnet_curriculum
"""

import argparse
from pathlib import Path

import numpy as np

from scratchpatch.report import figures
from scratchpatch.training.metrics import read_metrics

PARTS = 8
COLUMNS = {
    "boundaries_per_byte": "boundaries per byte",
    "bytes_per_patch": "bytes per patch",
    "boundary_probability": "mean probability",
    "ratio_loss": "ratio loss",
    "bpb": "training BPB",
}


def steps_of(run: Path) -> dict[str, np.ndarray]:
    """The run's metrics by name, one number per step that was taken."""
    lines = [line for line in read_metrics(run)[0] if not line.get("skipped")]
    return {name: np.array([line[name] for line in lines], float) for name in ("step", *COLUMNS)}


def table(runs: dict[str, dict[str, np.ndarray]]) -> list[str]:
    """Rows of a Markdown table: of each run the means over PARTS equal parts of its steps."""
    rows = ["| variant | steps | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name, metrics in runs.items():
        for part in np.array_split(np.arange(len(metrics["step"])), PARTS):
            steps = metrics["step"][part]
            means = (f"{_mean(metrics, column, part):.3f}" for column in COLUMNS)
            rows.append(f"| {name} | {steps[0]:.0f} to {steps[-1]:.0f} | {' | '.join(means)} |")
    return rows


def _mean(metrics: dict[str, np.ndarray], column: str, part: np.ndarray) -> float:
    """Of sizes the harmonic mean: bytes over commits. The size is none (NaN) in a step without a commit."""
    if column == "bytes_per_patch":
        return 1 / np.mean(np.nan_to_num(1 / metrics[column][part]))
    return float(np.mean(metrics[column][part]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="workdirs of the runs")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder of rates.svg")
    parsed = parser.parse_args()
    runs = {run.name.removeprefix("hnet_"): steps_of(run) for run in parsed.runs}
    curves = [figures.Series(name, run["step"], run["boundaries_per_byte"]) for name, run in runs.items()]
    svg = figures.by_step(curves, "boundaries that the router asks for, per byte", "rates")
    (parsed.output / "rates.svg").write_text(svg)
    print("\n".join(table(runs)))


if __name__ == "__main__":
    main()
