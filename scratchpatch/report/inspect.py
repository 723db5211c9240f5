"""Where a trained model ends patches and spends scratchpads on a given text."""

import html as html_lib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from scratchpatch import files
from scratchpatch.errors import UserError
from scratchpatch.inference.loading import load
from scratchpatch.report import page, passage


def inspect(
    workdir: str | os.PathLike, text_file: str | os.PathLike, html: str | os.PathLike | None = None,
    overrides: dict | None = None, tell: Callable[[str], None] = lambda text: None,
) -> str:
    """The text of a file with its patches and scratchpads by a run's model, and a line of numbers, for a terminal.
    html: also write a page to this file. overrides: dotted config fields to values. tell: is given the text before the
    page is written. Raises UserError where the file cannot be read, or the page cannot be written.
    """
    try:
        data = Path(text_file).read_bytes()
    except OSError as error:
        raise UserError(f"--text={text_file} cannot be read: {error.strerror}; name a file of text") from error
    model = load(workdir)
    if overrides:
        model = model.override(overrides)
    decisions = model.segment(data)
    shown = passage.Passage(data, decisions.entropy, decisions.commit, decisions.scratchpad)
    line = summary(shown, -float(np.mean(model.score(data))) if data else None)
    text = f"{passage.to_text(shown)}\n\n│ a patch ends   · a scratchpad\n{line}"
    tell(text)
    if html is not None:
        title = f"{Path(text_file).name} in patches"
        content = f'<h1>{html_lib.escape(title)}</h1><p class="note">{line}</p>{passage.to_html(shown)}'
        try:
            files.write_text(html, page.document(title, content))
        except OSError as error:
            fix = "name a file in a folder that exists"
            raise UserError(f"--html={html} cannot be written: {error.strerror}; {fix}") from error
    return text


def summary(shown: passage.Passage, bpb: float | None) -> str:
    """One line of numbers; `bpb` is None where there is no byte."""
    size, patches = len(shown.data), int(np.sum(shown.commit))
    if not size:
        return "0 bytes"
    per_patch = f"{size / patches:.2f} bytes per patch, " if patches else ""
    scratchpads = np.sum(shown.scratchpad) / size
    counts = f"{size:,} bytes, {patches:,} patches, {per_patch}{scratchpads:.4f} scratchpads per byte"
    return f"{counts}, {bpb:.4f} bits per byte"
