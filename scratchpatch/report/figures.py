"""Figures: plain data in, one SVG text out, the same for the same data.

An SVG stands alone as a file and also inlines into a page: its ids carry the figure's name, it loads nothing, and its
ink and ground follow the reader's light or dark scheme. Points whose x or y is None or not finite are left out.
"""

import html
import io
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scratchpatch.output import quantity

LIGHT, DARK = ("#1d2430", "#ffffff"), ("#d7dce4", "#1b2028")  # ink, ground
PALETTE = ("#3b78d8", "#e07b22", "#1f9e89", "#9b6cd1", "#d2495d", "#8a8f98", "#b59a1c", "#2fa8d6")
_MARKERS = "osD^vPXp"
_LEGEND_COLUMNS = 2
_Y_LABEL_WIDTH = 36  # characters: a longer line is cut at the figure's edge
BINS = 400  # points of a drawn curve: more cannot be told apart at this size

# Stand-ins that no palette uses, for which the SVG gets the reader's colours.
_INK, _FAINT = "#010203", "#040506"
_STYLE = Path(__file__).with_name("figures.mplstyle")


class Series(NamedTuple):
    """One labelled curve or cloud; `notes` are short texts beside its points."""

    label: str
    x: Sequence[float | None]
    y: Sequence[float | None]
    notes: Sequence[str] = ()


def loss_curves(training: Sequence[Series], validation: Sequence[Series], bytes_per_step: int) -> str:
    """BPB against the step (below) and the bytes read (above). `training` is drawn as the means of at most BINS bins of
    steps; `validation` keeps every point, marked.
    """
    training, validation = [_binned(one) for one in _drawable(training)], _drawable(validation)

    def draw(axes):
        for index, one in enumerate(training):
            _plot(axes, index, one, **({} if len(one.x) == 1 else {"marker": None}))
        for index, one in enumerate(validation, start=len(training)):
            _plot(axes, index, one, linewidth=1.2)
        axes.set_xlabel("step")
        axes.set_ylabel("bits per byte")
        axes.xaxis.set_major_locator(_ticks())
        top = axes.secondary_xaxis("top", functions=(lambda s: s * bytes_per_step, lambda b: b / bytes_per_step))
        top.set_xlabel("bytes of training windows")
        top.xaxis.set_major_formatter(lambda value, _: quantity(value))
        top.xaxis.set_major_locator(_ticks())
        top.spines["top"].set_visible(True)

    return _svg("loss", draw, "Loss curves: bits per byte against training steps")


def patch_lag(
    curves: Sequence[Series], x_label: str = "bytes since the last commit", y_label: str = "bits per byte",
    name: str = "patch-lag",
) -> str:
    """BPB, or what `y_label` says, against the bytes since the last commit, or what `x_label` says. A curve of one
    point (a byte-level model, which has no other offset) is drawn as a dashed level.
    """

    def draw(axes):
        for index, one in enumerate(_drawable(curves)):
            if len(one.x) == 1:
                colour = PALETTE[index % len(PALETTE)]
                axes.axhline(one.y[0], color=colour, linestyle=(0, (4, 3)), label=one.label)
            else:
                _plot(axes, index, one)
        axes.set_xlabel(x_label)
        axes.set_ylabel(textwrap.fill(y_label, _Y_LABEL_WIDTH))
        axes.xaxis.set_major_locator(_ticks())

    return _svg(name, draw, f"Patch lag: {y_label} by offset inside the patch")


def compute_quality(
    series: Sequence[Series], x_label: str = "trunk calls per byte", name: str = "compute-quality"
) -> str:
    """BPB against what it costs; the points of a series are joined in the order of x."""

    def draw(axes):
        for index, one in enumerate(_drawable(series)):
            points = sorted(zip(one.x, one.y, one.notes, strict=True))
            _plot(axes, index, Series(one.label, *zip(*points, strict=True)), markersize=7 if len(points) == 1 else 4.5)
            for order, (*at, note) in enumerate(points):
                away, edge = (7, "bottom") if order % 2 == 0 else (-7, "top")
                axes.annotate(note, at, (0, away), textcoords="offset points", fontsize=8.5, ha="center", va=edge)
        axes.set_xlabel(x_label)
        axes.set_ylabel("bits per byte")
        axes.xaxis.set_major_formatter(lambda value, _: quantity(value))
        axes.margins(x=0.08, y=0.18)

    return _svg(name, draw, f"Bits per byte against {x_label}")


def by_step(series: Sequence[Series], y_label: str, name: str) -> str:
    """What is measured now and then, or at every step, against the step. More than BINS points are drawn as means."""

    def draw(axes):
        for index, one in enumerate(_drawable(series)):
            many = {"marker": None} if len(one.x) > BINS else {}
            _plot(axes, index, _binned(one), linewidth=1.2, **many)
        axes.set_xlabel("step")
        axes.set_ylabel(textwrap.fill(y_label, _Y_LABEL_WIDTH))
        axes.xaxis.set_major_locator(_ticks())

    return _svg(name, draw, f"{y_label} against training steps")


def ranked(values: Mapping[str, float], y_label: str, name: str, marked: Sequence[str] = ()) -> str:
    """A bar for each name, the highest first. Names that are `marked`, and those at both ends, are written."""
    order = sorted((each for each in values if _is_number(values[each])), key=lambda each: (-values[each], each))

    def draw(axes):
        axes.bar(range(len(order)), [values[each] for each in order], width=1.0, color=PALETTE[0], linewidth=0)
        written = {each for each in (*order[:1], *order[-1:], *marked) if each in order}
        for height, each in enumerate(sorted(written, key=order.index)):
            at = order.index(each)
            align = "left" if at < len(order) / 3 else "right" if at > len(order) * 2 / 3 else "center"
            axes.bar([at], [values[each]], width=1.0, color=PALETTE[1], linewidth=0)
            # Neighbours are written at two heights.
            above = (0, 3 + 10 * (height % 2))
            axes.annotate(each, (at, values[each]), above, textcoords="offset points", fontsize=8.5, ha=align)
        axes.set_xticks([])
        axes.set_ylabel(textwrap.fill(y_label, _Y_LABEL_WIDTH))
        axes.margins(x=0.01, y=0.12)

    return _svg(name, draw, f"{y_label}, by name")


def _plot(axes, index: int, one: Series, **style) -> None:
    style = {"marker": _MARKERS[index % len(_MARKERS)]} | style
    axes.plot(one.x, one.y, color=PALETTE[index % len(PALETTE)], label=one.label, **style)


def _is_number(value) -> bool:
    return isinstance(value, (int, float, np.number)) and math.isfinite(value)


def _drawable(series: Sequence[Series]) -> list[Series]:
    """The finite points of each series, with a note each; a series that has none is left out."""
    drawable = []
    for one in series:
        points = zip(one.x, one.y, one.notes or [""] * len(one.x), strict=True)
        finite = [point for point in points if _is_number(point[0]) and _is_number(point[1])]
        if finite:
            drawable.append(Series(one.label, *zip(*finite, strict=True)))
    return drawable


def _binned(one: Series) -> Series:
    def means(values):
        return [float(values_of_bin.mean()) for values_of_bin in np.array_split(np.asarray(values, float), BINS)]

    return one if len(one.x) <= BINS else Series(one.label, means(one.x), means(one.y))


def _ticks() -> MaxNLocator:
    return MaxNLocator(9, steps=[1, 2, 5, 10], integer=True)


def _svg(name: str, draw: Callable, title: str) -> str:
    """Draw on fresh axes, with the legend below them, and give the figure its reader's colours."""
    with matplotlib.rc_context(fname=_STYLE):
        figure = Figure(layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        _, labels = axes.get_legend_handles_labels()
        figure.set_size_inches(6.4, 3.6 + 0.22 * math.ceil(len(labels) / _LEGEND_COLUMNS))
        if labels:
            figure.legend(loc="outside lower left", ncols=_LEGEND_COLUMNS)
        buffer = io.StringIO()
        blank = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=blank)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = svg.replace("'DejaVu Sans'", "system-ui, sans-serif").replace(_INK, "currentColor")
    svg = svg.replace(f"stroke: {_FAINT}", "stroke: currentColor; stroke-opacity: .22").replace(_FAINT, "currentColor")
    end = svg.index(">") + 1
    opening = f'<svg id="{name}" role="img" aria-label="{html.escape(title)}"{svg[4:end]}'
    return f"{opening}\n<style>{_scheme(name)}</style>{svg[end:]}\n"


def _scheme(name: str) -> str:
    # A ground of its own: a page may be light where the reader's system is dark, and cannot tell an image.
    light, dark = ("#{}{{color:{};background:{}}}".format(name, *colours) for colours in (LIGHT, DARK))
    return f"{light}@media (prefers-color-scheme:dark){{{dark}}}"
