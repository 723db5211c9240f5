"""Token ids: the 256 byte values, and two more.

BOS stands before every document of the stream. As a target it is the end of
the document before it. PAD fills the end of a row that the stream does not
reach; it is never a target.
"""

BOS = 256
PAD = 257
SIZE = 258
# Embedding and logit rows: SIZE padded up to a multiple of 8 (sublanes, GEMM
# alignment). The extra logits are masked out before every softmax.
ROWS = 264
