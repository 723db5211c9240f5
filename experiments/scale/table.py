"""Plan every experiment of this folder on the pods below, and write the tables of README.md anew.

Purpose: each experiment is shown to fit, and to send what it should, before a chip is rented.
Hardware: 2 CPU cores and libtpu (bash launch/setup.sh tpu).
Expected time: 25 minutes.
Expected number: every line fits but those marked, and bytes sent per chip do not grow with the pod.
Command:
    python -m experiments.scale.table
"""

import dataclasses
import importlib
import sys
import time
from pathlib import Path

from scratchpatch.errors import UserError
from scratchpatch.output import quantity
from scratchpatch.planning import plan, topology

_HERE = Path(__file__).parent
_MARKS = "<!-- {} of table.py -->"
# 64 KiB of text per chip and step: enough work for FSDP to hide behind.
_ROWS_PER_CHIP = 8
SIZES = ("150m", "1b", "2b", "8b")


@dataclasses.dataclass(frozen=True)
class Case:
    """One plan. rows: of 8 KiB, per device."""

    experiment: str
    pod: str
    slices: int = 1
    rows: int = _ROWS_PER_CHIP


SMALL, LARGE = "v6e:16x16", "v5p:8x8x16"
# By device count: 16, 256, 1,024.
CASES = [
    *(Case(f"{kind}_{size}", pod) for size in SIZES for kind in ("sp", "patch") for pod in (SMALL, LARGE)),
    # A byte-level trunk keeps ten times as much per byte.
    *(Case(f"byte_{size}", pod, rows=2) for size in SIZES for pod in (SMALL, LARGE)),
    *(Case(f"sp_{size}", "v5e:4x4") for size in SIZES),
    *(Case(f"sp_{size}", "tpu7x:4x4x4") for size in ("1b", "8b")),
    Case("sp_1b", "v6e:16x16", slices=4),
    Case("sp_8b", "v5p:16x16x16"),
]
WEAK = [Case("sp_1b", pod) for pod in ("v5p:2x2x4", "v5p:4x4x4", "v5p:4x8x8", "v5p:8x8x16", "v5p:16x16x16")]


def planned(case: Case) -> dict | str:
    """The plan of a case, or why there is none."""
    config = importlib.import_module(f"experiments.scale.{case.experiment}").get_config()
    pod = topology.parse(case.pod, case.slices)
    config.training.batch_rows = case.rows * pod.devices
    try:
        return plan.plan_tpu(config, pod, smallest=False, policies=False)
    except UserError as error:
        return str(error)


def row(case: Case, result: dict | str) -> str:
    """A plan, or the reason why there is none, as a row of the table."""
    pod = case.pod + (f" x {case.slices}" if case.slices > 1 else "")
    if isinstance(result, str):
        return f"| {case.experiment} | {pod} | {result[:120]} |" + " |" * (len(COLUMNS) - 3)
    seconds = result["seconds"]
    gib = f"{result['bytes_per_chip']['total'] / 2**30:.1f} of {result['hbm_bytes'] / 2**30:.0f}"
    cells = {
        "experiment": case.experiment,
        "pod": pod,
        "chips": f"{result['chips']:,}",
        "mesh": " x ".join(f"{axis} {size}" for axis, size in result["mesh"].items() if size > 1),
        "text per device": f"{case.rows * 8} KiB",
        "GiB per device": gib if result["fits"] else f"**{gib}: does not fit**",
        "FLOP per device": quantity(result["flops_per_chip"]),
        "sent per device": f"{quantity(result['collective_bytes_per_chip'])}B",
        "compute's share": f"{seconds['compute'] / sum(seconds[k] for k in ('compute', 'memory', 'ici', 'dcn')):.0%}",
        "step, s": f"{result['seconds_estimate']:.2f}",
        "MFU": f"{result['mfu_estimate']:.0%}",
        "warnings": "; ".join(w.split(":")[0].split(",")[0] for w in result["warnings"]) or "none",
    }
    return f"| {' | '.join(cells[column] for column in COLUMNS)} |"


COLUMNS = (
    "experiment",
    "pod",
    "chips",
    "mesh",
    "text per device",
    "GiB per device",
    "FLOP per device",
    "sent per device",
    "compute's share",
    "step, s",
    "MFU",
    "warnings",
)


def write(name: str, cases: list[Case]) -> None:
    """Write the table between its marks in README.md anew."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    for i, case in enumerate(cases):
        began = time.monotonic()
        lines.append(row(case, planned(case)))
        print(
            f"{name} {i + 1}/{len(cases)} ({time.monotonic() - began:.0f} s) {lines[-1]}", file=sys.stderr, flush=True
        )
    path = _HERE / "README.md"
    begin, end = _MARKS.format(f"begin {name}"), _MARKS.format(f"end {name}")
    before, _, rest = path.read_text().partition(begin)
    _, _, after = rest.partition(end)
    path.write_text(f"{before}{begin}\n" + "\n".join(lines) + f"\n{end}{after}")


if __name__ == "__main__":
    write("weak", WEAK)
    write("all", CASES)
