"""Figures: plain data in, one SVG text out.

Every figure is a pure function of its arguments: the same data gives the same
text. The SVG stands alone as a file and also inlines into a page: its ids carry
the figure's name, it loads nothing, and its ink follows the reader's light or
dark scheme. Points whose x or y is None or not finite are left out.
"""

from __future__ import annotations

import dataclasses
import io
import math
import re
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

PALETTE = ("#3b78d8", "#e07b22", "#1f9e89", "#9b6cd1", "#d2495d", "#8a8f98", "#b59a1c", "#2fa8d6")
BINS = 400  # points of a drawn curve: more cannot be told apart at this size

# Stand-ins that no palette uses: matplotlib wants colours, the page wants CSS.
_INK, _FAINT = "#010203", "#040506"
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "scratchpatch",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}


@dataclasses.dataclass(frozen=True)
class Series:
    """One labelled curve or cloud; `notes` are short texts beside its points."""

    label: str
    x: Sequence[float | None]
    y: Sequence[float | None]
    notes: Sequence[str] = ()


def loss_curves(training: Sequence[Series], validation: Sequence[Series], bytes_per_step: int, name: str = "loss") -> str:
    """BPB against the step (below) and the bytes read (above).

    `training` curves of more than BINS points are drawn as the means of equal
    bins of steps; `validation` keeps every point, marked.
    """

    def draw(axes):
        for index, series in enumerate(training):
            x, y = _binned(*_finite(series))
            axes.plot(x, y, color=_colour(index), label=series.label, marker="o" if len(x) == 1 else None)
        for index, series in enumerate(validation, start=len(training)):
            axes.plot(*_finite(series), color=_colour(index), label=series.label, marker="o", markersize=3.5, linewidth=1.2)
        axes.set_xlabel("step")
        axes.set_ylabel("bits per byte")
        top = axes.secondary_xaxis("top", functions=(lambda s: s * bytes_per_step, lambda b: b / bytes_per_step))
        top.set_xlabel("bytes of training windows")
        top.xaxis.set_major_formatter(lambda value, _: quantity(value))
        top.xaxis.set_major_locator(MaxNLocator(6))
        top.spines["top"].set_visible(True)
        axes.legend()

    return _svg(name, draw, "Loss curves: bits per byte against training steps")


def patch_lag(curves: Sequence[Series], name: str = "patch-lag") -> str:
    """BPB against the bytes since the last commit: x counts bytes, y is BPB.

    A curve of one point (a byte-level model, which has no other offset) is
    drawn as a dashed level.
    """

    def draw(axes):
        for index, series in enumerate(curves):
            x, y = _finite(series)
            if len(x) == 1:
                axes.axhline(y[0], color=_colour(index), linestyle=(0, (4, 3)), label=series.label)
            else:
                axes.plot(x, y, color=_colour(index), marker="o", markersize=3.5, label=series.label)
        axes.set_xlabel("bytes since the last commit")
        axes.set_ylabel("bits per byte")
        axes.xaxis.set_major_locator(MaxNLocator(9, integer=True))
        axes.legend()

    return _svg(name, draw, "Patch lag: bits per byte by offset inside the patch")


def compute_quality(
    series: Sequence[Series],
    x_label: str = "trunk calls per byte",
    joined: bool = True,
    name: str = "compute-quality",
) -> str:
    """BPB against what it costs; `joined` connects the points of a series in the order of x."""

    def draw(axes):
        for index, one in enumerate(series):
            points = sorted(
                (x, y, note)
                for x, y, note in zip(one.x, one.y, one.notes or [""] * len(one.x), strict=True)
                if _is_number(x) and _is_number(y)
            )
            x, y = [p[0] for p in points], [p[1] for p in points]
            lone = len(points) == 1
            line = "-" if joined and not lone else "none"
            axes.plot(
                x, y, color=_colour(index), linestyle=line, marker="D" if lone else "o", markersize=6 if lone else 4.5, label=one.label
            )
            for order, (px, py, note) in enumerate(points):
                if note:
                    above = order % 2 == 0
                    axes.annotate(
                        note, (px, py), (0, 7 if above else -7), textcoords="offset points", fontsize=8.5, ha="center", va="bottom" if above else "top"
                    )
        axes.set_xlabel(x_label)
        axes.set_ylabel("bits per byte")
        axes.margins(x=0.08, y=0.18)
        axes.legend()

    return _svg(name, draw, f"Bits per byte against {x_label}")


def quantity(value: float) -> str:
    """A count in few characters: 950, 12.5k, 3.1M, 1.2G."""
    for scale, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale:
            return f"{value / scale:.3g}{unit}"
    return f"{value:.3g}"


def _colour(index: int) -> str:
    return PALETTE[index % len(PALETTE)]


def _is_number(value) -> bool:
    return isinstance(value, (int, float, np.number)) and math.isfinite(value)


def _finite(series: Series) -> tuple[list[float], list[float]]:
    points = [(x, y) for x, y in zip(series.x, series.y, strict=True) if _is_number(x) and _is_number(y)]
    return [p[0] for p in points], [p[1] for p in points]


def _binned(x: list[float], y: list[float]) -> tuple[list[float], list[float]]:
    if len(x) <= BINS:
        return x, y
    return tuple([float(part.mean()) for part in np.array_split(np.asarray(values, float), BINS)] for values in (x, y))


def _svg(name: str, draw: Callable, title: str) -> str:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 3.7), layout="constrained")
        draw(figure.add_subplot())
        buffer = io.StringIO()
        blank = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=blank)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = svg.replace("'DejaVu Sans'", "system-ui, sans-serif").replace(_INK, "currentColor")
    svg = svg.replace(f"stroke: {_FAINT}", "stroke: currentColor; stroke-opacity: .22").replace(_FAINT, "currentColor")
    scheme = f"#{name}{{color:#1d2430}}@media (prefers-color-scheme:dark){{#{name}{{color:#d7dce4}}}}"
    end = svg.index(">") + 1
    head = svg[4 : end - 1]
    return f'<svg id="{name}" role="img" aria-label="{title}"{head}>\n<style>{scheme}</style>{svg[end:]}\n'
