"""`scratchpatch inspect` on a model with random weights."""

import numpy as np
import pytest

import scratchpatch as sp
from scratchpatch.errors import UserError
from scratchpatch.report import inspect as inspect_lib
from scratchpatch.report.inspect import inspect
from tests import runs
from tests.report import pages
from tests.report.pages import Page


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Random weights; a patch every 4 tokens, BOS the first of them; no scratchpad unless the threshold is lowered."""
    fields = {"trigger.threshold": 100.0, "trigger.capacity": 1.0}
    return sp.init(runs.config(tmp_path_factory.mktemp("text"), fields))


@pytest.fixture
def workdir(model, monkeypatch):
    monkeypatch.setattr(inspect_lib, "load", lambda workdir: model)
    return "run"


def written(tmp_path, data: bytes):
    path = tmp_path / "text.txt"
    path.write_bytes(data)
    return path


def test_a_text_with_its_patches_and_numbers(workdir, model, tmp_path):
    data = b"the cat sat\n"
    shown = inspect(workdir, written(tmp_path, data))
    bpb = -np.mean(model.score(data))
    assert shown.split("\n") == [
        "the│ cat│ sat│⏎",
        "",
        "",
        "│ a patch ends   · a scratchpad",
        f"12 bytes, 3 patches, 4.00 bytes per patch, 0.0000 scratchpads per byte, {bpb:.4f} bits per byte",
    ]


def test_overrides_change_the_model(workdir, tmp_path):
    shown = inspect(workdir, written(tmp_path, b"the cat sat\n"), overrides={"trigger.threshold": -1.0})
    assert shown.startswith("t·h·e│ ·c·a·t│ ·s·a·t│⏎·\n")
    assert "\n12 bytes, 3 patches, 4.00 bytes per patch, 0.7500 scratchpads per byte, " in shown


def test_an_empty_file(workdir, tmp_path):
    page = tmp_path / "page.html"
    shown = inspect(workdir, written(tmp_path, b""), html=page)
    assert shown.endswith("\n0 bytes")
    assert "empty text" in Page(page.read_text(encoding="utf-8")).text


def test_a_binary_file(workdir, tmp_path):
    data = bytes(range(0, 256, 7)) + b"\n\t\x1b[1m<script>x</script>\xe2\x82"
    page = tmp_path / "page.html"
    shown = inspect(workdir, written(tmp_path, data), html=page, overrides={"trigger.threshold": -1.0})
    assert all(c == "\n" or c.isprintable() for c in shown)
    html = page.read_text(encoding="utf-8")
    shown_page = Page(html)
    assert [int(cell["title"].split()[2].rstrip(","), 16) for cell, _ in shown_page.cells] == list(data)
    assert not shown_page.named("script") and pages.loads(html) == [] and shown_page.open == []
    assert f"{len(data)} bytes, " in shown_page.text and "text.txt in patches" in shown_page.text


def test_a_text_that_cannot_be_read(workdir, tmp_path):
    with pytest.raises(UserError, match=r"--text=.*none\.txt cannot be read: No such file or directory; name a file"):
        inspect(workdir, tmp_path / "none.txt")


def test_a_page_that_cannot_be_written(workdir, tmp_path):
    with pytest.raises(UserError, match=r"--html=.*x\.html cannot be written: .*; name a file in a folder that exists"):
        inspect(workdir, written(tmp_path, b"a"), html=tmp_path / "none" / "x.html")
