"""A vocabulary of tokens, learnt from the training split of a config: the file that its data.tokenizer names."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import logging

from scratchpatch import config as config_lib, files
from scratchpatch.data import tokenizer
from scratchpatch.data.anchor import anchored
from scratchpatch.data.mixture import streams_for
from scratchpatch.data.stream import Stream
from scratchpatch.errors import UserError


def learn(config, sample_bytes: int) -> dict[str, Any]:
    """Write the tokenizer of a config, unless its file is there: data.vocabulary tokens, learnt from about the first
    `sample_bytes` of the training splits, the same share of each source. Equal text gives an equal file.

    Returns, of what JSON has: tokenizer, its path; checksum; tokens; learnt, whether it was written now; and of the
    validation split documents, bytes, bytes_per_token. Raises UserError: the config names no tokenizer, its file is one
    of other tokens, there is not enough text, or the file cannot be written.
    """
    config = anchored(config)
    path = config.data.tokenizer
    if not path:
        raise UserError("data.tokenizer is empty: name the file to write, and in data.vocabulary how many tokens")
    learnt = not os.path.exists(path)
    if learnt:
        bytes_alone = config_lib.flat(config) | {"data.tokenizer": "", "data.vocabulary": 0}
        streams = [stream for stream, _ in streams_for(config_lib.from_flat(bytes_alone), "train")]
        logging.info("learning %d tokens from %s", config.data.vocabulary, ", ".join(s.summary() for s in streams))
        documents = itertools.chain.from_iterable(_beginning(s, sample_bytes // len(streams)) for s in streams)
        text = tokenizer.learn(documents, config.data.vocabulary)
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            files.replace_text(Path(path), text)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}; name another data.tokenizer") from error
    streams = [stream for stream, _ in streams_for(config, "validation")]
    tokens = sum(len(stream) - stream.documents for stream in streams)
    size = sum(stream.bytes for stream in streams)
    return {
        "tokenizer": path,
        "checksum": tokenizer.of(config).checksum,
        "tokens": config.data.vocabulary,
        "learnt": learnt,
        "validation": {
            "documents": sum(stream.documents for stream in streams),
            "bytes": size,
            "bytes_per_token": size / max(tokens, 1),
        },
    }


def table(result: dict[str, Any]) -> str:
    """The result in words."""
    how = "learnt" if result["learnt"] else "was there already"
    held_out = result["validation"]
    return (
        f"{result['tokenizer']} {how}: {result['tokens']:,} tokens, of {held_out['bytes_per_token']:.3f} bytes each in "
        f"the {held_out['bytes']:,} bytes of the validation split"
    )


def _beginning(stream: Stream, byte_count: int) -> Iterator[bytes]:
    """Whole documents from the beginning of a stream, until they have so many bytes."""
    for document in stream.documents_iter():
        if byte_count <= 0:
            return
        yield document
        byte_count -= len(document)
