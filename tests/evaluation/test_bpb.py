"""Bits per byte of streams whose documents are known, by one tiny model with random weights.

Legend: T positions of a stream.
"""

import functools
import json
import math
import tracemalloc

import numpy as np
import pytest

from scratchpatch.accounting import flops, kv_cache
from scratchpatch.evaluation import bpb, compressors
from scratchpatch.inference import windows
from scratchpatch.inference.language_model import LanguageModel, Positions
from scratchpatch.model import weights as weights_lib
from scratchpatch.vocabulary import BYTES
from tests import tiny
from tests.evaluation.pieces import random_weights
from tests.inference.models import WINDOW, language_model, some_bytes

DOCUMENTS = (some_bytes(11), b"", bytes(range(100)), b"\xff", some_bytes(70, seed=1), b"")


def stream(*documents: bytes) -> windows.Text:
    return windows.Text(np.array([t for data in documents for t in (BYTES.bos, *data)], np.int32), BYTES)


@functools.lru_cache
def measured(*documents: bytes) -> dict:
    return bpb.measure(language_model(), [stream(*documents)])


@pytest.mark.parametrize("size", (1, WINDOW - 1, WINDOW, 100))
def test_one_document_costs_its_score(size):
    data = some_bytes(size)
    result = measured(data)
    assert result["bpb"] == pytest.approx(-language_model().score(data).mean(), rel=1e-5)
    assert (result["bytes"], result["documents"], result["step"]) == (size, 1, 7)
    assert result["end_of_document_nats"] is None  # nothing follows that would end it


def test_every_byte_and_document_counts_once():
    result = measured(*DOCUMENTS)
    assert result["bytes"] == sum(map(len, DOCUMENTS)) == sum(result["bytes_by_offset"])
    assert result["documents"] == len(DOCUMENTS)


def test_short_documents_of_one_row_cost_what_they_cost_alone():
    documents = (some_bytes(9), b"", b"\xff\x00", some_bytes(12, seed=1))
    lm = language_model()
    bits = -sum(lm.score(data).sum() for data in documents)
    assert measured(*documents)["bpb"] == pytest.approx(bits / sum(map(len, documents)), rel=1e-5)
    ends = [next(lm.positions(stream(data, b""))).nats[len(data)] for data in documents[:-1]]
    assert measured(*documents)["end_of_document_nats"] == pytest.approx(np.mean(ends), rel=1e-5)


def test_streams_add_up():
    halves = [DOCUMENTS[:3], DOCUMENTS[3:]]
    whole = bpb.measure(language_model(), [stream(*half) for half in halves])
    assert whole["bytes"] == sum(map(len, DOCUMENTS)) and whole["documents"] == len(DOCUMENTS)
    bits = sum(result["bpb"] * result["bytes"] for result in (measured(*half) for half in halves))
    assert whole["bpb"] == pytest.approx(bits / whole["bytes"], rel=1e-6)
    assert whole["compressors"] == compressors.bits_per_byte(DOCUMENTS)[0]


@pytest.mark.parametrize("size, each", ((60, 30), (61, 30), (2, 1)))
def test_the_compressors_read_the_beginning_of_each_stream(size, each, monkeypatch):
    monkeypatch.setattr(bpb, "_CHUNK", 7)
    halves = DOCUMENTS[:3], DOCUMENTS[3:]
    result = bpb.measure(language_model(), [stream(*half) for half in halves], compressor_bytes=size)
    beginnings = [b"".join(half)[:each] for half in halves]
    assert (result["compressors"], result["compressed_bytes"]) == compressors.bits_per_byte(beginnings)
    assert result["compressed_bytes"] == 2 * each and result["bytes"] == sum(map(len, DOCUMENTS))


class Counting:
    """A stream that notes the longest piece that was read of it."""

    def __init__(self, positions: int):
        self.positions, self.longest = positions, 0

    def __len__(self) -> int:
        return self.positions

    def read(self, start: int, length: int) -> np.ndarray:
        self.longest = max(self.longest, length)
        at_T = np.arange(start, start + length)
        tokens_T = np.where(at_T % 100 == 0, BYTES.bos, at_T % 100)
        return np.where(at_T < self.positions, tokens_T, BYTES.pad).astype(np.int32)


def test_a_long_stream_is_read_piece_by_piece(monkeypatch):
    monkeypatch.setattr(bpb, "_CHUNK", 64)
    text = Counting(4000)
    result = bpb.measure(language_model(), [text])
    assert (result["documents"], result["bytes"], result["compressed_bytes"]) == (40, 3960, 3960)
    assert text.longest == 64


def test_a_beginning_costs_no_memory_for_what_follows():
    lm = language_model()
    next(lm.positions(Counting(10**5)))
    tracemalloc.start()
    try:
        next(lm.positions(Counting(10**8)))
        assert tracemalloc.get_traced_memory()[1] < 4e6
    finally:
        tracemalloc.stop()


def test_the_lag_curve_adds_up_to_the_whole():
    result = measured(*DOCUMENTS)
    curve, counts = result["bpb_by_offset"], result["bytes_by_offset"]
    assert len(curve) == len(counts)
    bits = sum(b * n for b, n in zip(curve, counts, strict=True) if n)
    assert bits / result["bytes"] == pytest.approx(result["bpb"], rel=1e-6)
    assert [b is None for b in curve] == [n == 0 for n in counts]


def test_the_lag_counts_bytes_since_the_last_commit():
    data = some_bytes(WINDOW - 1)
    result = measured(data)
    # Patches of 5 from the document's beginning: the first byte has read that alone, the byte after a commit nothing.
    offsets = [(i + 1) % 5 for i in range(len(data))]
    assert result["bytes_by_offset"] == [offsets.count(o) for o in range(5)]
    score = language_model().score(data)
    for o in range(5):
        bits = [-bits for bits, offset in zip(score, offsets, strict=True) if offset == o]
        assert result["bpb_by_offset"][o] == pytest.approx(np.mean(bits), rel=1e-5)


def test_no_byte_has_no_rate():
    for documents in ((), (b"",), (b"", b"")):
        result = measured(*documents)
        assert result["bytes"] == 0 and result["documents"] == len(documents)
        assert result["bpb"] is None and result["entropy_head_bpb"] is None
        assert result["bpb_by_offset"] == [] and result["compressors"]["gzip"] is None
        json.dumps(result, allow_nan=False)


def test_a_head_is_a_shorter_stream():
    tokens = stream(*DOCUMENTS)
    head = bpb.measure(language_model(), [windows.Head(tokens, 60)])
    cut = bpb.measure(language_model(), [windows.Text(tokens.read(0, 60), BYTES)])
    for result in (head, cut):
        result.pop("seconds")
    assert head == cut and head["bytes"] == 57 and head["documents"] == 3


def test_rates_are_per_position():
    data = some_bytes(WINDOW - 1)
    result, marks = measured(data), language_model().segment(data)
    # The document's beginning neither ends a patch of 5 nor has a budget for a scratchpad.
    assert result["commits_per_byte"] == marks.commit.sum() / WINDOW == 6 / 32
    assert result["scratchpads_per_byte"] == marks.scratchpad.sum() / WINDOW > 0
    assert result["trunk_calls_per_byte"] == result["commits_per_byte"] + result["scratchpads_per_byte"]
    assert result["bytes_per_patch"] == 32 / 6
    config = language_model().config
    assert result["kv_bytes_per_byte"] == kv_cache.kv_bytes_per_byte(config, 6 / 32)
    rates = result["commits_per_byte"], result["scratchpads_per_byte"]
    assert result["flops_per_byte"] == flops.flops_per_byte(config, *rates, WINDOW)


@pytest.mark.parametrize("kind, calls", (("every", 1.0), ("none", None)))
def test_the_trunk_runs_once_for_each_slot(kind, calls):
    lm = language_model().override({"trigger.kind": kind})
    result = bpb.measure(lm, [stream(*DOCUMENTS)], compressor_bytes=0)
    assert result["compressors"] is None and result["compressed_bytes"] == 0
    if kind == "every":
        assert result["trunk_calls_per_byte"] == 1.0 and result["scratchpads_per_byte"] > 0.75
    else:
        assert result["scratchpads_per_byte"] == 0.0
        assert result["trunk_calls_per_byte"] == result["commits_per_byte"] == measured(*DOCUMENTS)["commits_per_byte"]


def test_the_entropy_head_is_scored_where_there_is_one():
    lm, data = language_model(), some_bytes(20)
    nats = next(lm.positions(stream(data))).head_nats[:-1]
    assert measured(data)["entropy_head_bpb"] == pytest.approx(nats.mean() / math.log(2), rel=1e-5)
    headless = tiny.config({"data.window": 8, "model.entropy_head.weight": 0.0, "trigger.kind": "none"})
    plain = LanguageModel(headless, random_weights(weights_lib.abstract(headless)[1]))
    assert bpb.measure(plain, [stream(b"abc")])["entropy_head_bpb"] is None
    assert np.isnan(plain.segment(b"abc").entropy).all()


def test_a_model_without_a_trunk_has_bits_and_no_lag():
    fields = {"data.window": 32, "model.trunk.kind": "none", "model.entropy_head.weight": 0.0, "trigger.kind": "none"}
    config = tiny.config(fields)
    lm = LanguageModel(config, random_weights(weights_lib.abstract(config)[1]))
    result, data = bpb.measure(lm, [stream(*DOCUMENTS)]), some_bytes(20)
    assert result["bytes"] == sum(map(len, DOCUMENTS)) and result["documents"] == len(DOCUMENTS)
    assert bpb.measure(lm, [stream(data)])["bpb"] == pytest.approx(-lm.score(data).mean(), rel=1e-5)
    assert result["bpb_by_offset"] == result["bytes_by_offset"] == []
    assert result["trunk_calls_per_byte"] == result["scratchpads_per_byte"] == result["kv_bytes_per_byte"] == 0
    assert result["bytes_per_patch"] is None and result["entropy_head_bpb"] is None
    assert result["flops_per_byte"] == flops.flops_per_byte(config, 0, 0, 32)
    json.dumps(result, allow_nan=False)
    marks = lm.segment(data)
    assert np.isfinite(marks.entropy).all() and not marks.commit.any() and not marks.scratchpad.any()


def test_a_result_is_json():
    assert json.loads(json.dumps(measured(*DOCUMENTS), allow_nan=False)) == measured(*DOCUMENTS)


def test_a_tally_groups_by_the_offsets_it_is_given():
    part = Positions(
        nats=np.array([1.0, 2.0, 4.0, 8.0]),
        head_nats=np.ones(4),
        targets=np.array([97, BYTES.bos, 98, 99]),
        best=np.zeros(4, bool),
        entropy=np.zeros(4),
        commit=np.array([False, True, False, False]),
        scratchpad=np.array([True, False, False, False]),
        offset=np.array([1, 0, 1, 2]),
        since=np.array([1, 2, 1, 2]),
    )
    own, other = bpb.Tally(BYTES), bpb.Tally(BYTES)
    own.add(part)
    other.add(part, np.array([3, 0, 3, 0]))
    assert own.bpb == other.bpb == pytest.approx(13 / 3 / math.log(2))
    assert own.bytes_by_offset.tolist() == [0, 2, 1]
    assert own.bpb_by_offset() == [None, pytest.approx(2.5 / math.log(2)), pytest.approx(8 / math.log(2))]
    assert other.bytes_by_offset.tolist() == [1, 0, 0, 2]
    assert own.sums["end_nats"] == 2.0 and own.sums["ends"] == 1 and own.sums["positions"] == 4
    assert own.sums["commits"] == own.sums["scratchpads"] == 1
    own.add(part, np.array([0, 0, 0, 5]))
    assert own.bytes_by_offset.tolist() == [2, 2, 1, 0, 0, 1]
