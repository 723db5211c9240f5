"""What a page holds, as an HTML parser reads it."""

import base64
import json
import re
from html.parser import HTMLParser

from scratchpatch import config as config_lib

_VOID = {"meta", "br", "img", "link", "input", "use", "path"}


class Page(HTMLParser):
    """tags: (name, attributes) of every element. ids: every id. text: all text. cells: (attributes, text) of the
    passage's bytes."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.tags, self.ids, self.text, self.cells, self.open = [], [], "", [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag == "i" and "title" in attributes:
            self.cells.append((attributes, ""))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in _VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] == "i" and self.cells:
            attributes, before = self.cells[-1]
            self.cells[-1] = (attributes, before + data)

    def named(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


def loads(html: str) -> list[str]:
    """Everything in a page or figure that a browser would fetch or run."""
    found = [url for url in re.findall(r"https?://[^\s\"'<>]+", html) if not re.search(rf'xmlns(:\w+)?="{url}"', html)]
    found += re.findall(r"<(?:script|link|img|iframe|object|embed|image)\b", html)
    found += re.findall(r"@import|@font-face|javascript:|\bsrc=|\bon\w+=\"", html)
    return found + [target for target in re.findall(r"(?:href=\"|url\()([^\")]*)", html) if not target.startswith("#")]


def evaluation(**more) -> dict:
    """What an evaluation of 3000 bytes holds; `more` replaces entries."""
    return {
        "bpb": 2.3125,
        "bytes": 3000,
        "documents": 12,
        "end_of_document_nats": 3.25,
        "entropy_head_bpb": 2.5,
        "trunk_calls_per_byte": 0.25,
        "commits_per_byte": 0.0625,
        "scratchpads_per_byte": 0.1875,
        "bytes_per_patch": 16.0,
        "flops_per_byte": 1.25e6,
        "kv_bytes_per_byte": 256.0,
        "bpb_by_offset": [2.2, 2.3, 2.4, None],
        "bytes_by_offset": [1000, 1000, 1000, 0],
        "compressors": {"gzip": 2.625, "bzip2": 2.125, "xz": 2.0625},
        "compressed_bytes": 4096,
        "source": "stdlib:code",
        "split": "validation",
        "step": 40,
        **more,
    }


def sweep(*thresholds) -> list[dict]:
    """One point per threshold, on 500 bytes; the dearer the lower."""
    rates = [0.2 if t is None else min(max(1.0 - t / 6, 0.0625), 1.0) for t in thresholds]
    return [
        {"threshold": t, "bpb": 2.5 - r / 4, "bytes": 500, "trunk_calls_per_byte": r, "flops_per_byte": 1e6 * r}
        for t, r in zip(thresholds, rates, strict=True)
    ]


def passage(data: bytes = b"def f():\n\treturn 1\n") -> dict:
    """A patch ends at every fourth byte, a scratchpad fires at every fourth but two."""
    n = range(len(data))
    masks = {"commit": [i % 4 == 3 for i in n], "scratchpad": [i % 4 == 1 for i in n]}

    return {"text_base64": base64.b64encode(data).decode(), "entropy": [i % 5 / 1.0 for i in n], **masks}


def write_run(folder, results=None, metrics=(), config=None, **more):
    """A run's folder with what is given, as training and evaluation write it."""
    folder.mkdir(parents=True)
    if config is not None:
        text = json.dumps({"version": "0", "config": config_lib.flat(config)})
        (folder / "config.json").write_text(text)
    if metrics:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    if results is not None:
        (folder / "evaluation.json").write_text(json.dumps({"step": 40, "results": results, **more}))
    return folder
