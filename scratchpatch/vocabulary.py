"""Token ids. A model's vocabulary comes from its config: see `config.vocabulary`."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The ids of a stream of documents, and the rows that a model has for them.

    Attributes:
      size: ids in all, BOS and PAD included; ids below `bos` are text.
      bos: stands before every document of the stream. As a target it is the end of the document before it.
      pad: fills the end of a row that the stream does not reach; it is never a target.
      rows: of the embedding and of the logits: `size` padded up to a multiple of 8 (sublanes, GEMM alignment). The
        logits of the further rows are masked out before every softmax.
      bytes_per_token: bytes of text that one id stands for.
      dtype: of one id of text on disk.
    """

    size: int
    bos: int
    pad: int
    rows: int
    bytes_per_token: int
    dtype: np.dtype


# The 256 byte values, BOS and PAD.
BYTES = Vocabulary(size=258, bos=256, pad=257, rows=264, bytes_per_token=1, dtype=np.dtype(np.uint8))
