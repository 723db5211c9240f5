"""Rows side by side: each is continued as if it were alone, and its bytes have the probabilities that `score` gives.

Legend: n bytes of a row.
"""

import dataclasses
import functools
import math

import numpy as np
import pytest

from scratchpatch.accounting import kv_cache
from scratchpatch.errors import UserError
from scratchpatch.inference.engine import Engine
from scratchpatch.inference.language_model import LanguageModel
from scratchpatch.inference.options import Options
from tests import tiny
from tests.inference.models import WINDOW, language_model, some_bytes

PROMPTS = (b"", b"ab", b"\xff\xc3(", some_bytes(WINDOW - 1), some_bytes(WINDOW), some_bytes(3 * WINDOW + 5), b"abcdef")
TICKS = 8


@functools.lru_cache
def engine(rows: int, share: float = 0.0) -> Engine:
    return Engine(language_model(), rows, share, TICKS)


def run(made: Engine, prompts, options) -> list:
    """[(bytes, finish)] in the order of the prompts; options: one for all, or one for each."""
    options = [options] * len(prompts) if isinstance(options, Options) else options
    tickets = [made.submit(*each) for each in zip(prompts, options, strict=True)]
    rows = {ticket: ([], []) for ticket in tickets}
    while not made.idle:
        for progress in made.step():
            rows[progress.ticket][0].extend(progress.bytes)
            rows[progress.ticket][1].append(progress.finish)
    assert all(finishes[-1] and not any(finishes[:-1]) for _, finishes in rows.values())
    return [(written, finishes[-1]) for written, finishes in rows.values()]


def values(written) -> bytes:
    return bytes(byte.value for byte in written)


SAMPLED = [Options(max_bytes=2 * WINDOW - 5 * k, temperature=1.0, seed=k) for k in range(len(PROMPTS))]


@functools.lru_cache
def alone():
    """Each prompt in an engine that has one place."""
    return [run(engine(1), [prompt], options)[0] for prompt, options in zip(PROMPTS, SAMPLED, strict=True)]


@pytest.mark.parametrize("k", range(len(PROMPTS)))
def test_bytes_have_the_probability_that_score_gives_them(k):
    """Also where the row is longer than the window, and was read anew."""
    written, finish = alone()[k]
    assert (len(written), finish) == (SAMPLED[k].max_bytes, "length")
    log2_n = language_model().score(PROMPTS[k] + values(written))[len(PROMPTS[k]) :]
    np.testing.assert_allclose([byte.log_probability for byte in written], log2_n * math.log(2), atol=1e-4)


def test_decisions_are_those_of_segment():
    """What stands before a byte is what was decided after the one before it."""
    written, _ = alone()[1]
    written = written[: WINDOW - 3]
    wanted = language_model().segment(b"ab" + values(written))
    for name in ("commit", "scratchpad"):
        assert [getattr(byte, name) for byte in written] == getattr(wanted, name)[1 : 1 + len(written)].tolist()
    entropy_n = wanted.entropy[1 : 1 + len(written)]
    np.testing.assert_allclose([byte.entropy for byte in written], entropy_n, atol=1e-4)
    assert any(byte.commit for byte in written) and any(byte.scratchpad for byte in written)


@pytest.mark.parametrize(("rows", "share"), ((3, 0.0), (3, 1.0), (6, 0.5)))
def test_a_row_does_not_depend_on_the_others_nor_on_when_the_trunk_runs(rows, share):
    """There are fewer places than prompts: a finished row gives its place to the next."""
    for (written, finish), (wanted, ended) in zip(run(engine(rows, share), PROMPTS, SAMPLED), alone(), strict=True):
        assert (values(written), finish) == (values(wanted), ended)
        nats = [[byte.log_probability for byte in row] for row in (written, wanted)]
        np.testing.assert_allclose(*nats, atol=1e-4)


def test_the_order_of_prompts_changes_no_row():
    order = [4, 2, 6, 0, 5, 1, 3]
    rows = run(engine(3), [PROMPTS[k] for k in order], [SAMPLED[k] for k in order])
    assert [values(written) for written, _ in rows] == [values(alone()[k][0]) for k in order]


def test_with_equal_shapes_no_bit_depends_on_the_members_of_a_batch():
    """Every byte is a slot here, so that the trunk always runs for all rows; elsewhere for as many as wait."""
    made = Engine(language_model().override({"trigger.kind": "every", "trigger.capacity": 1.0}), 3, 0.0, TICKS)
    options = [dataclasses.replace(SAMPLED[1], seed=seed) for seed in range(3)]
    first, second = (run(made, [b"ab", *others], options)[0] for others in ((b"", b"xyz"), (b"q" * 40, b"abc")))
    assert first == second


def test_many_rows_need_the_trunk_less_often_when_they_wait_for_each_other():
    def calls(made):
        before = dataclasses.replace(made.work)
        options = [dataclasses.replace(SAMPLED[0], seed=seed) for seed in range(6)]
        run(made, [b"ab", b"cd", b"ef", b"gh", b"ij", b"kl"], options)
        return made.work.trunk_calls - before.trunk_calls, made.work.slots - before.slots

    (eager, slots), (patient, as_many) = calls(engine(6)), calls(engine(6, 0.5))
    assert slots == as_many and patient < eager


def test_a_row_ends_where_the_document_does():
    hot = [Options(max_bytes=WINDOW, temperature=1e6, seed=seed) for seed in range(24)]
    rows = run(engine(6), [b"ab"] * 24, hot)
    ended = [values(written) for written, finish in rows if finish == "stop"]
    assert ended and all(len(written) < WINDOW for written in ended)
    # Others of the same seeds, which may write less, end at the same byte or before it.
    shorter = run(engine(6), [b"ab"] * 24, [dataclasses.replace(options, max_bytes=5) for options in hot])
    assert [values(written) for written, _ in shorter] == [values(written)[:5] for written, _ in rows]


def test_a_stop_string_ends_a_row_and_is_no_part_of_it():
    written = values(alone()[0][0])
    stop = written[11:14]
    end = written.find(stop)
    ((stopped, finish),) = run(engine(1), [b""], dataclasses.replace(SAMPLED[0], stop=(stop, b"\0\1\2\3\4")))
    assert (values(stopped), finish) == (written[:end], "stop")


def test_alternatives_are_the_likeliest():
    options = Options(max_bytes=6, logprobs=3)
    ((written, _),) = run(engine(1), [b"ab"], options)
    for byte in written:
        (best, nats), *others = byte.alternatives
        assert best == byte.value and nats == pytest.approx(byte.log_probability, abs=1e-6)
        assert [nats for _, nats in others] == sorted((nats for _, nats in others), reverse=True) and len(others) == 2


@pytest.mark.parametrize("threshold", (-math.inf, 3.9, 4.1, math.inf))
def test_the_dial_is_the_models_threshold(threshold):
    """As `override` has it: without controller, without budget; beside a row whose dial is not turned."""
    prompts, options = (b"ab", b"ab"), Options(max_bytes=WINDOW)
    turned = dataclasses.replace(options, scratchpad_threshold=threshold)
    (written, _), (usual, _) = run(engine(3), prompts, (turned, options))
    other = language_model().override(trigger__threshold=threshold)
    assert values(written) == other.generate(b"ab", WINDOW)
    assert values(usual) == language_model().generate(b"ab", WINDOW)
    slots = sum(byte.commit or byte.scratchpad for byte in written)
    assert threshold > 0 or slots == len(written)
    assert threshold < math.inf or not any(byte.scratchpad for byte in written)


def test_a_rate_steers_the_threshold():
    lm = language_model()
    made = Engine(lm, 2, 0.0, 64)
    # Long rows without end, in one window.
    rows = run(made, [b"", b""], [Options(max_bytes=WINDOW, temperature=1.0, rate=rate) for rate in (0.0, 1.0)])
    few, many = (sum(byte.scratchpad for byte in written) for written, _ in rows)
    assert few <= many


def test_a_cancelled_row_gives_up_its_place():
    made = engine(1)
    long, short = made.submit(b"ab", Options(max_bytes=1000)), made.submit(b"ab", Options(max_bytes=TICKS))
    assert {progress.ticket for progress in made.step()} == {long} and made.waiting == 1
    made.cancel(long)
    (progress,) = made.step()
    assert (progress.ticket, progress.finish) == (short, "length") and made.idle
    assert values(progress.bytes) == language_model().generate(b"ab", TICKS)


def test_nothing_asked_for_is_nothing_written():
    assert run(engine(3), [b"ab", b""], Options(max_bytes=0)) == [([], "length")] * 2


def test_weights_without_a_distribution_end_the_work_in_a_line():
    lm = language_model()
    weights = {**lm.weights, "params": {**lm.weights["params"]}}
    weights["params"]["encoder"] = {"embedding": {"embedding": np.full((264, 16), np.nan, np.float32)}} | {
        name: part for name, part in weights["params"]["encoder"].items() if name != "embedding"
    }
    with pytest.raises(UserError, match="NaN"):
        LanguageModel(lm.config, weights).generate(b"ab", 3)


@pytest.mark.parametrize(
    ("options", "told"),
    (
        (Options(temperature=-1.0), "temperature = -1.0"),
        (Options(patch_threshold=1.0), "patch_threshold = 1.0 .*override"),
    ),
)
def test_options_that_cannot_be_used_are_refused(options, told):
    with pytest.raises(UserError, match=told):
        engine(1).submit(b"ab", options)
    assert engine(1).idle


def test_a_dial_that_nothing_reads_is_refused():
    with pytest.raises(UserError, match="'oracle' reads the bytes that follow, so it cannot continue text"):
        Engine(language_model().override({"trigger.kind": "oracle"}), 1)
    lm = language_model().override({"trigger.kind": "stride"})
    with pytest.raises(UserError, match=r"rate = 0.5: trigger.kind = 'stride'.*no threshold"):
        lm.generate(b"ab", 3, rate=0.5)


def test_a_trunk_of_states_keeps_as_much_of_a_long_row_as_of_a_short_one():
    """Rows wait for each other, so that the trunk runs for some of them."""
    fields = {"model.encoder.kind": "ssm", "model.trunk.kind": "ssm", "model.trunk.kv_heads": 0}
    config = tiny.config(fields | {"model.trunk.layers": 1, "trigger.kind": "stride", "trigger.stride": 2})
    lm = LanguageModel(config, tiny.weights(config))
    made, options = Engine(lm, 3, 0.5, TICKS), Options(max_bytes=40, temperature=1.0, seed=3)
    prompts = [b"", b"ab", some_bytes(50)]
    for prompt, (written, _) in zip(prompts, run(made, prompts, options), strict=True):
        log2_n = lm.score(prompt + values(written))[len(prompt) :]
        np.testing.assert_allclose([byte.log_probability for byte in written], log2_n * math.log(2), atol=1e-4)
    # Four complex numbers a channel.
    assert made.cache_bytes["trunk"] == kv_cache.kv_bytes(config, rows=3) == 3 * 32 * 4 * 2 * 4
    assert kv_cache.kv_bytes_per_byte(config, 0.25) == 0


def test_an_engine_needs_rows():
    with pytest.raises(UserError, match="rows = 0"):
        Engine(language_model(), 0)
