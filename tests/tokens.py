"""A tiny tokenizer, learnt from a little text, and the fields of a config that reads its tokens."""

import functools
import tempfile
from pathlib import Path

import numpy as np

from scratchpatch.data import tokenizer
from tests import tiny

COUNT = 290
# Words, characters of several bytes, and bytes that are no UTF-8.
DOCUMENTS = tuple(
    " ".join(np.random.default_rng(k).choice("the cat sat on a mat and Grüße, dass 1984".split(), 60)).encode()
    for k in range(8)
) + (b"\xff\xfe the cat \xe2\x82", b"", "漢字 mat\n\n  cat".encode())
FIELDS = {
    "data.vocabulary": COUNT,
    "patching.kind": "byte",
    "trigger.kind": "none",
    "model.entropy_head.weight": 0.0,
    "model.pooling.kind": "last",
    "model.pooling.last_state": False,
    "model.encoder.layers": 0,
    "model.decoder.layers": 0,
}


@functools.cache
def learnt() -> tokenizer.Tokenizer:
    return tokenizer.parse(tokenizer.learn(DOCUMENTS, COUNT), "tiny tokenizer")


@functools.cache
def _folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="scratchpatch-tokens-")


def file() -> str:
    """The path of a file with it."""
    path = Path(_folder().name) / "tiny.json"
    if not path.exists():
        path.write_text(learnt().text)
    return str(path)


def config(fields=None):
    """A checked tiny config of a model of tokens."""
    return tiny.config(FIELDS | {"data.tokenizer": file()} | (fields or {}))
