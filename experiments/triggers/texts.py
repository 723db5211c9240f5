"""The text of the study: a slice of books and of code, and all sums in words, as files of their own.

A sum is a problem of gsm8k and its answer, one document. Legend: T tokens of a text, R rows, M = L + 1 tokens of a row.
"""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from experiments import corpora
from scratchpatch.tasks import computed as computed_task
from scratchpatch.vocabulary import BYTES

# Answers that must be computed: `<<48/2=24>>`, and those after `####`; not their copies.
_COMPUTED = ("calculated", "final")
# Of the problems every tenth validates.
_TENTH = 10


def write(folder: Path, slice_bytes: int) -> None:
    """FOLDER/CORPUS.SPLIT.jsonl of each corpus and split, at most about `slice_bytes` of each, and of a validation
    split an eighth of that; those that are there stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation"):
        sources = {"books": _whole("en_books", split), "code": _whole("code", split), "sums": _sums(split)}
        for corpus, texts in sources.items():
            path = folder / f"{corpus}.{split}.jsonl"
            if path.exists():
                continue
            left = slice_bytes if split == "train" else slice_bytes // 8
            unfinished = path.with_suffix(".unfinished")
            with unfinished.open("w") as file:
                for text in texts:
                    # A book is longer than a slice.
                    text = text[: max(left, 1)]
                    left -= len(text.encode())
                    file.write(json.dumps({"text": text}) + "\n")
                    if left <= 0:
                        break
            unfinished.replace(path)


def _whole(corpus: str, split: str) -> Iterator[str]:
    with gzip.open(corpora.folder() / corpus / f"{split}.jsonl.gz", "rt") as lines:
        for line in lines:
            # A part of each book, so that a slice holds several.
            yield json.loads(line)["text"][:400_000]


def _sums(split: str) -> Iterator[str]:
    with gzip.open(corpora.folder() / "gsm8k" / "train.jsonl.gz", "rt") as lines:
        for number, line in enumerate(lines):
            if (number % _TENTH == 0) == (split == "validation"):
                problem = json.loads(line)
                yield f"{problem['question']}\n{problem['answer']}\n"


def rows(path: Path, count: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The first rows of a corpus's documents, one packed behind the other.

    Returns:
      tokens_RM int32 [count, length + 1], PAD behind the text's end; computed_RL bool [count, length], whether the
      token after a position must be computed.
    """
    tokens, computed = [], []
    for line in path.read_text().splitlines():
        data = json.loads(line)["text"].encode()
        is_computed = np.zeros(len(data) + 1, bool)
        for span in computed_task.spans(data):
            is_computed[span.start + 1 : span.end + 1] = span.kind in _COMPUTED
        tokens.append(np.concatenate([[BYTES.bos], np.frombuffer(data, np.uint8)]))
        computed.append(is_computed)
        if sum(map(len, tokens)) > count * length:
            break
    flat_T = np.concatenate(tokens)[: count * length + 1].astype(np.int32)
    flags_T = np.concatenate(computed)[: count * length + 1]
    missing = count * length + 1 - len(flat_T)
    flat_T, flags_T = np.pad(flat_T, (0, missing), constant_values=BYTES.pad), np.pad(flags_T, (0, missing))
    tokens_RM = np.stack([flat_T[r * length : (r + 1) * length + 1] for r in range(count)])
    return tokens_RM, flags_T[1:].reshape(count, length)
