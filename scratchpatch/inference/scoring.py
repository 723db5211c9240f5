"""Many documents scored side by side."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from scratchpatch.inference import windows
from scratchpatch.inference.language_model import LanguageModel, Positions


@dataclasses.dataclass
class _Document:
    """A document that is being scored: its place among the others, its windows, and what is known of each."""

    index: int
    text: windows.Text
    plan: list[windows.Window]
    parts: list[dict[str, np.ndarray]] = dataclasses.field(default_factory=list)


def positions(
    lm: LanguageModel, documents: Sequence[bytes], seen: Callable[[int], None] = lambda byte_count: None
) -> Iterator[tuple[int, Positions]]:
    """What the model says along each document, as `LanguageModel.score` does one by one.

    Documents are put into rows of a few lengths, and rows of one length into calls of one size, so that few programs
    are compiled, and what is said of a document does not depend on those beside it, on their order or their number.

    Args:
      seen: called after each call with the number of bytes that were read for the first time.
    Yields:
      (index, Positions [n + 1]) of each document of n bytes: as they end, shorter ones first.
    """
    window = lm.config.data.window
    by_length: dict[int, list[int]] = {}
    # Tokens of a document are made again below, since those of all documents may not fit into memory.
    sizes = [len(lm.tokens(document)) for document in documents]
    for index in sorted(range(len(documents)), key=sizes.__getitem__):
        by_length.setdefault(windows.row_length(sizes[index], window), []).append(index)
    for length, indices in by_length.items():
        texts = ((index, windows.Text(lm.tokens(documents[index]), lm.vocabulary)) for index in indices)
        open_documents = (_Document(index, text, list(windows.plan(len(text), length))) for index, text in texts)
        rows = ((document.text, own, document) for document in open_documents for own in document.plan)
        yield from _score(lm, rows, length, seen)


def _score(
    lm: LanguageModel,
    rows: Iterable[tuple[windows.Text, windows.Window, _Document]],
    length: int,
    seen: Callable[[int], None],
) -> Iterator[tuple[int, Positions]]:
    for answered in lm.answers(rows, length, lm.rows_per_call(length)):
        for (*_, document), answer in answered:
            # Copies: a document that is not at its end holds on to no whole call.
            document.parts.append({name: array.copy() for name, array in answer.items()})
        seen(sum(own.count for (_, own, _), _ in answered))
        for (_, own, document), _ in answered:
            if own is document.plan[-1]:
                yield document.index, lm.by_byte(Positions.joined(document.parts))
