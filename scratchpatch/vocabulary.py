"""Token ids. A model's vocabulary comes from its config: see `config.vocabulary`."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The ids of a stream of documents, and the rows that a model has for them.

    Attributes:
      unit: what one id of text stands for, 'byte' or 'token': one byte, or the bytes that a tokenizer's file says.
      size: ids in all, BOS and PAD included; ids below `bos` are text.
      bos: stands before every document of the stream. As a target it is the end of the document before it.
      pad: fills the end of a row that the stream does not reach; it is never a target.
      rows: of the embedding and of the logits: `size` padded up to a multiple of 8 (sublanes, GEMM alignment). The
        logits of the further rows are masked out before every softmax.
      dtype: of one id of text on disk.
    """

    unit: str
    size: int
    bos: int
    pad: int
    rows: int
    dtype: np.dtype

    @property
    def is_bytes(self) -> bool:
        """Whether an id of text is the byte of this value."""
        return self.unit == "byte"


# The 256 byte values, BOS and PAD.
BYTES = Vocabulary(unit="byte", size=258, bos=256, pad=257, rows=264, dtype=np.dtype(np.uint8))


def of_tokens(count: int) -> Vocabulary:
    """The vocabulary of a tokenizer of so many tokens: BOS and PAD are the ids behind them."""
    size = count + 2
    # BOS and PAD, which no file holds, fit in the type too, so that an id has one type everywhere.
    dtype = np.dtype(np.uint16 if size <= 1 << 16 else np.uint32)
    return Vocabulary(unit="token", size=size, bos=count, pad=count + 1, rows=size + -size % 8, dtype=dtype)
