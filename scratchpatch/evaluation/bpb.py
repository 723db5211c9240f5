"""Bits per byte of streams, and what they cost. Legend: T positions of a stream."""

import math
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from scratchpatch import config as config_lib
from scratchpatch.accounting import flops, kv_cache
from scratchpatch.distributed import processes
from scratchpatch.evaluation import compressors
from scratchpatch.inference.language_model import LanguageModel, Positions
from scratchpatch.model import loss as loss_lib
from scratchpatch.progress import Progress
from scratchpatch.vocabulary import Vocabulary

# Positions of a stream that are in memory at once for the compressors.
_CHUNK = 1 << 16
_SUMS = ("nats", "head_nats", "end_nats", "bytes", "tokens", "ends", "positions", "commits", "scratchpads")


class Tally:
    """Sums over positions, in which every byte and every end of a document counts once. token_bytes: int64 [rows of the
    vocabulary], bytes of each token (`LanguageModel.token_bytes`); None of bytes.
    """

    def __init__(self, vocabulary: Vocabulary, token_bytes: np.ndarray | None = None):
        self._vocabulary, self._token_bytes = vocabulary, token_bytes
        self.sums = dict.fromkeys(_SUMS, 0.0)
        self.nats_by_offset = np.zeros(0)
        self.bytes_by_offset = np.zeros(0, np.int64)

    def add(self, p: Positions, offset_T: np.ndarray | None = None) -> None:
        """Count a part of a stream; `offset_T` groups the lag curve by other offsets than the model's own."""
        text_T, end_T = p.targets < self._vocabulary.bos, p.targets == self._vocabulary.bos
        nats_T = p.nats.astype(np.float64)
        bytes_T = np.ones(text_T.sum(), np.int64)
        if self._token_bytes is not None:
            bytes_T = self._token_bytes[p.targets[text_T]]
        counted = {
            "nats": nats_T[text_T].sum(),
            "head_nats": p.head_nats[text_T].sum(dtype=np.float64),
            "end_nats": nats_T[end_T].sum(),
            "bytes": bytes_T.sum(),
            "tokens": len(bytes_T),
            "ends": end_T.sum(),
            "positions": len(text_T),
            "commits": p.commit.sum(),
            "scratchpads": p.scratchpad.sum(),
        }
        self.sums = {name: total + float(counted[name]) for name, total in self.sums.items()}
        offset_T = (p.offset if offset_T is None else offset_T)[text_T]
        longer = max(int(offset_T.max(initial=-1)) + 1 - len(self.bytes_by_offset), 0)
        self.nats_by_offset = np.pad(self.nats_by_offset, (0, longer))
        self.bytes_by_offset = np.pad(self.bytes_by_offset, (0, longer))
        self.nats_by_offset += np.bincount(offset_T, nats_T[text_T], len(self.nats_by_offset))
        self.bytes_by_offset += np.bincount(offset_T, bytes_T, len(self.bytes_by_offset)).astype(np.int64)

    @property
    def bpb(self) -> float | None:
        """Bits per raw byte; None of no bytes."""
        return self.sums["nats"] / self.sums["bytes"] / math.log(2) if self.sums["bytes"] else None

    def bpb_by_offset(self) -> list[float | None]:
        """The patch-lag curve: BPB by the bytes read since the last commit; None where no byte stands."""
        sums = zip(self.nats_by_offset, self.bytes_by_offset, strict=True)
        return [float(nats / count / math.log(2)) if count else None for nats, count in sums]


def _beginning(lm: LanguageModel, stream, size: int) -> Iterator[bytes]:
    """The first `size` raw bytes of a stream, or all that it has, in chunks."""
    for at in range(0, len(stream), _CHUNK):
        chunk = lm.text(stream.read(at, min(_CHUNK, len(stream) - at)))[:size]
        yield chunk
        size -= len(chunk)
        if not size:
            return


def rates(lm: LanguageModel, sums: dict[str, float]) -> dict[str, float]:
    """What the trunk did for the positions of a `Tally` and what they cost, per byte; a BOS counts as a byte, since the
    trunk runs there too. flops_per_byte is that of documents as long as the config's window (`flops.expected`).
    """
    positions, stands_for = max(sums["positions"], 1.0), loss_lib.bytes_per_position(sums)
    commits, scratchpads = sums["commits"] / positions, sums["scratchpads"] / positions
    flops_per_position = flops.flops_per_byte(lm.config, commits, scratchpads, lm.config.data.window)
    return {
        "trunk_calls_per_byte": (commits + scratchpads) / stands_for,
        "commits_per_byte": commits / stands_for,
        "scratchpads_per_byte": scratchpads / stands_for,
        "flops_per_byte": flops_per_position / stands_for,
        "kv_bytes_per_byte": kv_cache.kv_bytes_per_byte(lm.config, commits) / stands_for,
    }


def measure(
    lm: LanguageModel, streams: Iterable, compressor_bytes: int = compressors.BYTES, label: str = "evaluating"
) -> dict[str, Any]:
    """Everything that `eval --json` says about some streams.

    However long the streams are, a few rows of them are in memory at a time. The compressors read the first
    `compressor_bytes` of the streams, the same share of each, or nothing where it is 0; `compressed_bytes` of the
    result says how many bytes there were. label: of the progress that is shown; '': none is.

    bpb counts raw bytes; end_of_document_nats is the mean over ends of documents that another document follows. See
    `rates` for what is per byte. bytes_per_token is there of a model of tokens. A model without a trunk has no lag, and
    its bpb_by_offset is empty. Where causal is False, scratchpads stand where the bytes that follow say, and the
    numbers are those of no model.
    """
    streams, began = list(streams), time.monotonic()
    vocabulary = config_lib.vocabulary(lm.config)
    total = Tally(vocabulary, lm.token_bytes)
    size, shown = sum(map(len, streams)), bool(label) and processes.is_first()
    with Progress(total=size, label=label, unit="B" if vocabulary.is_bytes else "tokens", shown=shown) as progress:
        for stream in streams:
            for part in lm.positions(stream):
                before = total.sums["bytes"] + total.sums["ends"]
                total.add(part)
                read = total.sums["bytes"] + total.sums["ends"] - before
                progress.advance(len(part.nats), int(read), total.bpb)
    sums, per_byte = total.sums, rates(lm, total.sums)
    commits = per_byte["commits_per_byte"]
    tokens = {} if vocabulary.is_bytes else {"bytes_per_token": sums["bytes"] / max(sums["tokens"], 1.0)}
    headless, lags = math.isnan(sums["head_nats"]), lm.config.model.trunk.kind != "none"
    compressed, compressed_bytes = None, 0
    if compressor_bytes:
        share = compressor_bytes // max(len(streams), 1)
        chunks = (chunk for stream in streams for chunk in _beginning(lm, stream, share))
        compressed, compressed_bytes = compressors.bits_per_byte(chunks)
    # A document begins where the one before it ends, and at the beginning of a stream.
    begun = sum(len(stream) > 0 and int(stream.read(0, 1)[0]) == vocabulary.bos for stream in streams)
    return {
        "bpb": total.bpb,
        "bytes": int(sums["bytes"]),
        "documents": begun + int(sums["ends"]),
        "end_of_document_nats": sums["end_nats"] / sums["ends"] if sums["ends"] else None,
        "entropy_head_bpb": None if headless or not sums["bytes"] else sums["head_nats"] / sums["bytes"] / math.log(2),
        **per_byte,
        "bytes_per_patch": 1 / commits if commits else None,
        **tokens,
        "bpb_by_offset": total.bpb_by_offset() if lags else [],
        "bytes_by_offset": [int(c) for c in total.bytes_by_offset] if lags else [],
        "compressors": compressed,
        "compressed_bytes": compressed_bytes,
        "seconds": time.monotonic() - began,
        "step": lm.step,
        "causal": config_lib.is_causal(lm.config),
    }
