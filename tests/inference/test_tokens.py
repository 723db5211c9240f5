"""A model of tokens as a function of bytes: what it says of each byte, and what it writes.

Legend: n bytes of a document, T tokens of one.
"""

import functools
import math

import numpy as np
import pytest

from scratchpatch.errors import UserError
from scratchpatch.evaluation.bpb import measure
from scratchpatch.inference import scoring, windows
from scratchpatch.inference.engine import Engine
from scratchpatch.inference.language_model import LanguageModel
from scratchpatch.inference.options import Options
from scratchpatch.model import weights as weights_lib
from scratchpatch.tasks import requests
from tests import tokens
from tests.evaluation.pieces import random_weights

WINDOW = 32
TEXT = "the cat sat on a mat, dass Grüße 19\n".encode() * 6 + b"\xff\xfe the"


@functools.cache
def language_model() -> LanguageModel:
    config = tokens.config({"data.window": WINDOW})
    weights = random_weights(weights_lib.abstract(config)[1])
    return LanguageModel(config, weights | {"spelling": {"token_bytes": tokens.learnt().token_bytes()}}, step=3)


def said(ids) -> np.ndarray:
    """float64 [T]: nats of each token of a document."""
    text = windows.Text(np.array([language_model().vocabulary.bos, *ids], np.int32), language_model().vocabulary)
    return np.concatenate([part.nats for part in language_model().positions(text)])[: len(ids)].astype(np.float64)


def last_bytes(ids) -> np.ndarray:
    """int64 [T]: where the last byte of each token stands."""
    return np.cumsum(language_model().token_bytes[ids]) - 1


@pytest.mark.parametrize("data", [b"", b"x", TEXT], ids=len)
def test_what_is_said_of_a_token_stands_at_its_last_byte(data):
    lm, ids = language_model(), tokens.learnt().encode(data)
    wanted_n = np.zeros(len(data))
    wanted_n[last_bytes(ids)] = -said(ids) / math.log(2)
    np.testing.assert_allclose(lm.score(data), wanted_n, atol=1e-5)
    assert np.flatnonzero(lm.segment(data).commit).tolist() == last_bytes(ids).tolist()
    ((_, passed),) = scoring.positions(lm, [data])
    np.testing.assert_allclose(passed.nats[:-1] / math.log(2), -lm.score(data), atol=2e-5)
    assert passed.targets[:-1][last_bytes(ids)].tolist() == ids.tolist()
    assert passed.best[:-1][np.setdiff1d(np.arange(len(data)), last_bytes(ids))].all()
    assert passed.since.tolist() == list(range(1, len(data) + 2)) and (passed.offset[last_bytes(ids) + 1] == 0).all()


def test_bits_per_byte_count_raw_bytes():
    lm, ids = language_model(), tokens.learnt().encode(TEXT)
    positions = [lm.vocabulary.bos, *ids, lm.vocabulary.bos, *ids]
    result = measure(lm, [windows.Text(np.array(positions, np.int32), lm.vocabulary)], label="")
    assert result["bytes"] == 2 * len(TEXT) and result["documents"] == 2
    assert result["bytes_per_token"] == pytest.approx(len(TEXT) / len(ids))
    bits, per_position = -lm.score(TEXT).sum(), (2 * len(TEXT) + 1) / (2 * len(ids) + 1)
    # The second document is scored by other windows than alone, and its rows begin elsewhere.
    assert result["bpb"] == pytest.approx(bits / len(TEXT), rel=0.05)
    assert result["trunk_calls_per_byte"] == pytest.approx(1 / per_position)
    assert result["bytes_per_patch"] == pytest.approx(per_position) and result["bytes_by_offset"] == [2 * len(TEXT)]
    alone = measure(lm, [windows.Text(lm.tokens(TEXT), lm.vocabulary)], label="")
    assert alone["bpb"] == pytest.approx(bits / len(TEXT), rel=1e-5)


def test_an_answer_is_scored_from_the_first_token_that_holds_a_byte_of_it():
    """Also where that token begins in the context."""
    lm, whole = language_model(), b"sat on a mat and the cat"
    ids, cut = tokens.learnt().encode(whole), len(b"sat on a mat and the ")
    (likely,) = requests.answer(lm, [requests.Likelihood(whole[:cut], whole[cut:])])
    own = last_bytes(ids) >= cut
    assert last_bytes(ids)[~own][-1] + 1 < cut and own.sum() == 1
    assert likely.nats == pytest.approx(said(ids)[own].sum(), abs=1e-4)
    assert (likely.byte_count, likely.read) == (len(whole) - cut, len(ids))


@functools.cache
def engine(rows: int) -> Engine:
    return Engine(language_model(), rows, ticks=8)


@functools.cache
def written(rows: int) -> list:
    """Bytes that continue three prompts, the longest beyond the window."""
    made, options = engine(rows), [Options(max_bytes=150, temperature=1.0, seed=k) for k in range(3)]
    rows_of = {made.submit(prompt, each): [] for prompt, each in zip((b"", b"the cat", TEXT), options, strict=True)}
    while not made.idle:
        for progress in made.step():
            rows_of[progress.ticket] += progress.bytes
    return list(rows_of.values())


@pytest.mark.parametrize("k", range(3))
def test_tokens_are_written_with_the_probability_that_they_have_after_the_prompts_tokens(k):
    row, prompt = written(3)[k], (b"", b"the cat", TEXT)[k]
    own = [place for place, byte in enumerate(row) if byte.log_probability]
    pieces = np.split(np.array([byte.value for byte in row], np.uint8), np.add(own, 1))
    # The last token may be cut, and then its log-probability is not there.
    ids = [tokens.learnt().spelled.index(piece.tobytes()) for piece in pieces[:-1]]
    before = tokens.learnt().encode(prompt).tolist()
    wanted_T = -said([*before, *ids])[len(before) :]
    np.testing.assert_allclose([row[place].log_probability for place in own], wanted_T, atol=1e-4)
    assert all(row[place].commit for place in [0, *np.add(own, 1)] if place < len(row))
    # The model ends one of them itself.
    assert len(row) == (150 if k else 17) and (len(ids) + len(before) > WINDOW) == (k > 0)


def test_a_row_of_tokens_does_not_depend_on_the_others():
    assert [[byte.value for byte in row] for row in written(1)] == [[b.value for b in row] for row in written(3)]


def test_the_output_ends_at_a_stop_string_inside_a_token():
    row = bytes(byte.value for byte in written(3)[1])
    stop = row[40:43]
    options = Options(max_bytes=150, temperature=1.0, seed=1, stop=(stop,))
    assert engine(1).write([(b"the cat", options)]) == [row[: row.index(stop)]]


def test_what_is_about_single_bytes_is_refused_by_name():
    for name, value in (("valid_utf8", True), ("logprobs", 3)):
        with pytest.raises(UserError, match=f"{name} = {value} is about bytes, and this model writes tokens"):
            language_model().generate(b"a", **{name: value})
    with pytest.raises(UserError, match="data.tokenizer is the one that the model was trained with"):
        language_model().override({"data.tokenizer": "other.json"})
