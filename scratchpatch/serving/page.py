"""The page on which one types a prompt and watches bytes arrive: page.html, page.js and the styles, put into one text.

Its policy lets it run its own script and style, which are named by their hashes, and speak to its own server alone.
"""

import base64
import dataclasses
import hashlib
import html
from pathlib import Path
from string import Template

from scratchpatch.report import passage

_FOLDER = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Page:
    html: str
    headers: dict[str, str]


def make(model: str) -> Page:
    """The page of a model of that name."""
    style = "\n".join([passage.STYLE.read_text(encoding="utf-8"), _read("page.css")])
    script = _read("page.js")
    values = {
        "model": html.escape(model), "style": style, "script": script, "legend": passage.legend(shaded=True),
        "shades": passage.SHADES, "full_shade_nats": passage.FULL_SHADE_NATS, "limit": passage.LIMIT,
    }
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {
        "Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return Page(Template(_read("page.html")).substitute(values), headers)


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
