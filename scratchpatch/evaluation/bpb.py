"""Bits per byte of streams, and what they cost.

Legend: T positions of a stream.
"""

import math
import time
from collections.abc import Iterable, Iterator

import numpy as np

from scratchpatch import vocabulary
from scratchpatch.accounting import flops, kv_cache
from scratchpatch.evaluation import compressors
from scratchpatch.inference.language_model import LanguageModel, Positions
from scratchpatch.progress import Progress

# Positions of a stream that are in memory at once for the compressors.
_CHUNK = 1 << 16


class Tally:
    """Sums over positions; every byte and every end of a document once."""

    def __init__(self):
        self.sums = dict.fromkeys(
            ("nats", "head_nats", "end_nats", "bytes", "ends", "positions", "commits", "scratchpads"), 0.0
        )
        self.nats_by_offset = np.zeros(0)
        self.bytes_by_offset = np.zeros(0, np.int64)

    def add(self, p: Positions, offset_T: np.ndarray | None = None) -> None:
        """Count a part of a stream; `offset_T` groups the lag curve by other offsets than the model's own."""
        byte_T, end_T = p.targets < vocabulary.BOS, p.targets == vocabulary.BOS
        nats_T = p.nats.astype(np.float64)
        for name, value in (
            ("nats", nats_T[byte_T].sum()),
            ("head_nats", p.head_nats[byte_T].sum(dtype=np.float64)),
            ("end_nats", nats_T[end_T].sum()),
            ("bytes", byte_T.sum()),
            ("ends", end_T.sum()),
            ("positions", len(byte_T)),
            ("commits", p.commit.sum()),
            ("scratchpads", p.scratchpad.sum()),
        ):
            self.sums[name] += float(value)
        offset_T = (p.offset if offset_T is None else offset_T)[byte_T]
        size = max(int(offset_T.max(initial=-1)) + 1, len(self.bytes_by_offset))
        grow = lambda x: np.pad(x, (0, size - len(x)))  # noqa: E731
        self.nats_by_offset = grow(self.nats_by_offset) + np.bincount(offset_T, nats_T[byte_T], size)
        self.bytes_by_offset = grow(self.bytes_by_offset) + np.bincount(offset_T, minlength=size)

    @property
    def bpb(self) -> float | None:
        """Bits per raw byte; None of no bytes."""
        return self.sums["nats"] / self.sums["bytes"] / math.log(2) if self.sums["bytes"] else None

    def bpb_by_offset(self) -> list[float | None]:
        """BPB by bytes read since the last commit: the patch-lag curve; None where no byte stands."""
        return [
            float(n / c / math.log(2)) if c else None
            for n, c in zip(self.nats_by_offset, self.bytes_by_offset, strict=True)
        ]


def tally(lm: LanguageModel, streams: Iterable, label: str = "evaluating") -> Tally:
    """Run the model along every stream."""
    streams, total = list(streams), Tally()
    with Progress(total=sum(map(len, streams)), first=0, label=label, unit="B") as progress:
        for stream in streams:
            for part in lm.positions(stream):
                total.add(part)
                progress.advance(len(part.nats), len(part.nats), total.bpb)
    return total


def beginning(stream, size: int) -> Iterator[bytes]:
    """The first `size` raw bytes of a stream, or all that it has, in chunks."""
    for at in range(0, len(stream), _CHUNK):
        tokens_T = stream.read(at, min(_CHUNK, len(stream) - at))
        chunk = tokens_T[tokens_T < vocabulary.BOS].astype(np.uint8).tobytes()[:size]
        yield chunk
        size -= len(chunk)
        if not size:
            return


def evaluate(lm: LanguageModel, streams, compressor_bytes: int = compressors.BYTES, label: str = "evaluating") -> dict:
    """Everything that `eval --json` holds about some streams.

    However long they are, a few rows of them are in memory at a time. The
    compressors read the first `compressor_bytes` of them, the same share of
    each stream, or nothing where it is 0; `compressed_bytes` of the result says
    how many there were.

    bpb counts raw bytes; end_of_document_nats is the mean over ends of
    documents that another document follows. Rates are per position (bytes and
    BOS): the trunk runs at a BOS too. flops_per_byte is that of documents as
    long as the config's window (`flops.expected`). A model without a trunk has no lag, and
    its bpb_by_offset is empty.
    """
    streams, began = list(streams), time.monotonic()
    total = tally(lm, streams, label)
    s, positions = total.sums, max(total.sums["positions"], 1.0)
    commits, scratchpads = s["commits"] / positions, s["scratchpads"] / positions
    headless, lags = math.isnan(s["head_nats"]), lm.config.model.trunk.kind != "none"
    share = compressor_bytes // len(streams) if streams else 0
    compressed, read = compressors.bits_per_byte(chunk for x in streams for chunk in beginning(x, share)) if compressor_bytes else (None, 0)
    # A document begins where the one before it ends, and at the beginning of a stream.
    begun = sum(len(x) > 0 and int(x.read(0, 1)[0]) == vocabulary.BOS for x in streams)
    return {
        "bpb": total.bpb,
        "bytes": int(s["bytes"]),
        "documents": begun + int(s["ends"]),
        "end_of_document_nats": s["end_nats"] / s["ends"] if s["ends"] else None,
        "entropy_head_bpb": None if headless or not s["bytes"] else s["head_nats"] / s["bytes"] / math.log(2),
        "trunk_calls_per_byte": commits + scratchpads,
        "commits_per_byte": commits,
        "scratchpads_per_byte": scratchpads,
        "bytes_per_patch": 1 / commits if commits else None,
        "flops_per_byte": flops.flops_per_byte(lm.config, commits, scratchpads, lm.config.data.window),
        "kv_bytes_per_byte": kv_cache.kv_bytes_per_byte(lm.config, commits),
        "bpb_by_offset": total.bpb_by_offset() if lags else [],
        "bytes_by_offset": [int(c) for c in total.bytes_by_offset] if lags else [],
        "compressors": compressed,
        "compressed_bytes": read,
        "seconds": time.monotonic() - began,
        "step": lm.step,
    }
