"""Figures as SVG texts: what is drawn, and in which colours."""

import functools
import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from scratchpatch.report import figures, page as page_lib
from scratchpatch.report.figures import Series
from tests.report import pages

LAG = [Series("this run", range(4), [2.0, 2.1, 2.2, 2.3]), Series("byte-level", [0], [1.9])]
FIGURES = ("loss", "lag", "compute")


def draw(name: str) -> str:
    if name == "lag":
        return figures.patch_lag(LAG)
    if name == "loss":
        validation = [Series("validation", [3], [3.5])]
        return figures.loss_curves([Series("training", [1, 2, 3], [8.0, 5.0, 3.0])], validation, 4096)
    return figures.compute_quality([Series("sweep", [0.1, 0.5], [2.5, 2.3], ["none", "1.5"])])


drawn = functools.cache(draw)


def tree(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def texts(svg: str) -> list[str]:
    return [e.text for e in tree(svg).iter("{http://www.w3.org/2000/svg}text")]


def marks(svg: str) -> int:
    """Markers of curves, those of the legend included; ticks have the ink's colour."""
    return len(re.findall(r"<use [^>]*fill: #[0-9a-f]{6}", svg))


@pytest.mark.parametrize("name", FIGURES)
def test_same_data_gives_the_same_text(name):
    assert draw(name) == drawn(name)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_xml_that_loads_nothing(name):
    svg = drawn(name)
    assert tree(svg).tag == "{http://www.w3.org/2000/svg}svg"
    assert pages.loads(svg) == []
    assert "<!DOCTYPE" not in svg and "<metadata" not in svg


def test_the_address_finder_finds():
    assert pages.loads('<svg xmlns="http://a/svg"><use href="#x"/></svg>') == []
    for bad in (
        '<a href="http://a/b">',
        "<script>x</script>",
        '<img src="x">',
        "a{background:url(x.png)}",
        "@import 'x'",
        '<p onclick="x">',
    ):
        assert pages.loads(bad), bad


def test_ids_differ_between_figures_and_every_reference_is_met():
    first, second = figures.patch_lag(LAG, name="one"), figures.patch_lag(LAG, name="two")
    ids = [re.findall(r'\bid="([^"]*)"', svg) for svg in (first, second)]
    assert len(set(ids[0] + ids[1])) == len(ids[0]) + len(ids[1])
    for svg, own in zip((first, second), ids, strict=True):
        referred = set(re.findall(r'(?:url\(#|href="#)([^")]*)', svg))
        assert referred and referred <= set(own)


@pytest.mark.parametrize("name", FIGURES)
def test_ink_and_ground_follow_the_scheme(name):
    svg = drawn(name)
    style = svg[svg.index("<style>") : svg.index("</style>")]
    light, dark = style.split("@media (prefers-color-scheme:dark)")
    page = page_lib.document("", "")
    for scheme, (ink, ground) in ((light, figures.LIGHT), (dark, figures.DARK)):
        assert f"color:{ink};background:{ground}" in scheme
        assert f"--ink:{ink};--panel:{ground}" in page
    # Nothing else is painted in a colour that only one of the schemes shows.
    painted = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", svg))
    assert painted <= set(figures.PALETTE)


def test_palette_stands_out_from_both_grounds():
    def luminance(colour):
        linear = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in linear]
        return np.dot(linear, (0.2126, 0.7152, 0.0722))

    for _, ground in (figures.LIGHT, figures.DARK):
        for colour in figures.PALETTE:
            low, high = sorted((luminance(colour), luminance(ground)))
            assert (high + 0.05) / (low + 0.05) > 2.4, (colour, ground)


def test_seven_curves_are_all_named_below_the_axes():
    curves = [Series(f"variant {k}", range(16), np.arange(16) * k) for k in range(7)]
    svg, short = figures.patch_lag(curves), figures.patch_lag(curves[:1])
    assert [t for t in texts(svg) if t.startswith("variant")] == [f"variant {k}" for k in range(7)]
    full_height, height = (float(tree(text).get("viewBox").split()[3]) for text in (svg, short))
    assert full_height - height == pytest.approx(3 * 0.22 * 72)
    assert len({c for c in figures.PALETTE if c in svg}) == 7


def test_lag_labels_its_axes_and_wraps_a_long_one():
    assert "bits per byte" in texts(figures.patch_lag(LAG))
    svg = figures.patch_lag(LAG, y_label="BPB above the byte-level model at the same byte")
    assert "bits per byte" not in texts(svg)
    assert "BPB above the byte-level model at" in svg and "the same byte" in texts(svg)
    assert "bytes since the last commit" in texts(svg)


def test_a_lone_offset_is_a_level_across_the_figure():
    svg = figures.patch_lag([Series("byte-level", [0], [2.0])])
    assert "stroke-dasharray" in svg and marks(svg) == 0
    svg = figures.patch_lag([Series("p=2", [0, 1], [2.0, 2.1])])
    assert "stroke-dasharray" not in svg and marks(svg) == 2 + 1


def test_points_that_are_no_numbers_are_left_out():
    y = [2.0, None, math.nan, math.inf, 2.5]
    svg = figures.patch_lag([Series("a", range(5), y)])
    assert svg == figures.patch_lag([Series("a", [0, 4], [2.0, 2.5])])
    svg = figures.compute_quality(
        [Series("a", [1, 2, None], [2.0, None, 3.0], ["kept", "gone", "lost"]), Series("b", [None], [1])]
    )
    assert "kept" in texts(svg) and not {"gone", "lost", "b"} & set(texts(svg))


def test_no_data_draws_empty_axes():
    def both_losses(curves):
        return figures.loss_curves(curves, curves, 1)

    for drawing in (figures.patch_lag, figures.compute_quality, both_losses):
        for empty in ([], [Series("a", [], [])], [Series("a", [1], [None])]):
            labels = texts(drawing(empty))
            assert "bits per byte" in labels and "a" not in labels


def test_numpy_numbers_are_numbers():
    assert figures.patch_lag([Series("a", np.arange(2), np.float32([1, 2]))]) == figures.patch_lag(
        [Series("a", [0, 1], [1.0, 2.0])]
    )


def test_long_training_curves_are_means_of_bins():
    steps = 4 * figures.BINS
    raw = Series("training", range(1, steps + 1), [s % 4 for s in range(steps)])
    mean = Series("training", [4 * b + 2.5 for b in range(figures.BINS)], [1.5] * figures.BINS)
    assert figures.loss_curves([raw], [], 1) == figures.loss_curves([mean], [], 1)


def test_loss_counts_bytes_on_its_upper_axis():
    svg = figures.loss_curves([Series("training", [0, 100], [8.0, 3.0])], [], 20000)
    assert {"step", "100", "bytes of training windows", "2M"} <= set(texts(svg))


def test_one_step_is_a_mark():
    assert marks(figures.loss_curves([Series("training", [1], [8.0])], [], 1)) == 1 + 1
    assert marks(figures.loss_curves([Series("training", [1, 2], [8.0, 7.0])], [], 1)) == 0


def test_cost_is_joined_in_the_order_of_x_and_its_ticks_are_short():
    a = figures.compute_quality(
        [Series("a", [3e6, 1e6, 2e6], [1.0, 3.0, 2.0], ["c", "a", "b"])], x_label="FLOPs per byte"
    )
    assert a == figures.compute_quality(
        [Series("a", [1e6, 2e6, 3e6], [3.0, 2.0, 1.0], ["a", "b", "c"])], x_label="FLOPs per byte"
    )
    assert {"FLOPs per byte", "1M", "2M", "3M", "a", "b", "c"} <= set(texts(a))


def test_labels_are_escaped():
    label = '</text><script>&"$x$'
    svg = figures.patch_lag([Series(label, [0, 1], [1, 2])], y_label='<b>"')
    assert label in texts(svg)
    assert pages.loads(svg) == [] and tree(svg).get("aria-label").startswith('Patch lag: <b>"')


def test_bars_stand_in_order_and_some_are_named():
    values = {"low": 1.0, "high": 9.0, "middle": 4.0, "other": 5.0, "nothing": None}
    svg = figures.ranked(values, "trunk calls", "calls", ["middle", "absent"])
    assert tree(svg).get("id") == "calls" and svg == figures.ranked(values, "trunk calls", "calls", ["middle"])
    assert [name for name in texts(svg) if name in values] == ["high", "middle", "low"]
    assert pages.loads(svg) == []


def test_what_is_measured_now_and_then_is_drawn_by_step():
    svg = figures.by_step([Series("choice:x", [2, 4], [0.25, 0.5]), Series("none", [], [])], "accuracy", "task")
    # Two markers, and that of the legend.
    assert "choice:x" in texts(svg) and "none" not in texts(svg) and marks(svg) == 3
