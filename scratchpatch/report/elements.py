"""Pieces of HTML that pages are made of."""

import html

from scratchpatch.output import quantity


def figure(title: str, note: str, content: str) -> str:
    """A figure with its caption; the content is HTML, title and note are text."""
    return f"<figure>{content}<figcaption><b>{html.escape(title)}</b> {html.escape(note)}</figcaption></figure>"


def scrolled(rows: str) -> str:
    """A table of rows that are HTML, in a box that scrolls where it is too wide."""
    return f'<div class="scroll"><table>{rows}</table></div>'


def missing(what: str, how: str) -> str:
    """What a page lacks, and the command that makes it."""
    return f'<div class="missing">No {html.escape(what)} yet: <code>{html.escape(how)}</code> makes it.</div>'


def number(value, form: str | None) -> str:
    """A number by a format, or in few characters where that is None; a dash for what is no number."""
    if not isinstance(value, (int, float)):
        return "–"
    return form.format(value) if form else quantity(value)
