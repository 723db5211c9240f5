import numpy as np
import pytest

from scratchpatch import config as config_lib, timing
from scratchpatch.accounting import kv_cache
from scratchpatch.accounting.parameters import parameters
from scratchpatch.bench import decode, decoders
from scratchpatch.bench.decoders import Continuation, Recomputation
from scratchpatch.bench.results import Result, at_least
from scratchpatch.inference.engine import Engine
from scratchpatch.inference.options import Options
from tests import runs
from tests.bench.test_peer import HAS_PEER

SIZES = decode.Sizes(
    seconds=0.0,
    prompt=40,
    new=24,
    samples=3,
    peer=2,
    rows=3,
    long_rows=2,
    short=20,
    few=32,
    fewer=8,
    window=128,
    near=40,
    far=100,
    shares=(0.0, 1.0),
)


@pytest.fixture(scope="module")
def config():
    fields = runs.SMALL | decode.RATES | {"data.window": 128, "mesh.data": 1}
    return config_lib.from_flat(config_lib.flat(config_lib.default()) | fields)


@pytest.fixture(scope="module")
def engine(config):
    return Engine(decoders.model(config), rows=3, ticks=8)


@pytest.fixture(autouse=True)
def one_turn(monkeypatch):
    monkeypatch.setattr(timing, "_FEWEST_TURNS", 1)


def test_a_continuation_counts_what_it_did(engine, config):
    side = Continuation(engine, size=20, new=32)
    assert side() > 0 and side() > 0
    numbers = side.numbers(0.5)
    assert side.bytes == 3 * 32 and engine.idle
    assert numbers["bytes_per_second"] == 2 and numbers["rows"] == 3
    assert numbers["trunk_calls_per_byte"] == side.slots / 96
    # A commit at every 16th byte, two in 32; scratchpads as their places are hashed.
    assert 2 / 32 <= numbers["trunk_calls_per_byte"] <= 0.4
    assert 1 <= numbers["rows_per_trunk_call"] <= 3
    assert 0 < side.prefill_seconds < side.first_seconds


def test_the_cache_has_the_bytes_of_the_account(engine, config):
    assert engine.cache_bytes["trunk"] == kv_cache.kv_bytes(config, rows=3) < engine.cache_bytes["all"]


def test_commits_of_the_cache_are_those_of_the_text(config, engine):
    Continuation(engine, size=20, new=32)()
    # BOS, prompt and all new bytes but the last were read.
    read = [1 + len(prompt) + 31 for prompt in decoders.prompts(3, 20)]
    assert engine.commits == sum(n // 16 for n in read)


def test_prompts_end_at_different_bytes_of_their_patches():
    sizes = [len(prompt) for prompt in decoders.prompts(20, 64)]
    assert len({n % 16 for n in sizes}) == 16 and max(sizes) == 64 and min(sizes) == 49


def test_the_local_path_calls_no_trunk(config):
    side = Continuation(Engine(decoders.model(decoders.local(config)), ticks=8), size=0, new=64)
    side()
    assert side.bytes == 64 and side.slots <= 2


def test_a_model_never_ends_a_document(engine):
    logits = engine.model.weights["params"]["decoder"]["logits"]["projection"]["kernel"]
    assert not np.any(logits[:, engine.model.vocabulary.bos]) and np.any(logits[:, 0])


def test_recomputing_chooses_the_bytes_of_the_engine(engine):
    (prompt,) = decoders.prompts(1, 40)
    ticket = engine.submit(prompt, Options(max_bytes=1))
    (progress,) = [progress for progress in engine.fill() + engine.step() if progress.ticket == ticket]
    theirs = Recomputation(engine.model, size=40, new=24, samples=3)
    assert theirs() > 0 and theirs.new == 3 and theirs.choices[0] == progress.bytes[0].value


def test_rows_are_read_within_their_windows(engine):
    """Beyond the window, a row is read from where `score` reads it."""
    theirs = Recomputation(engine.model, size=120, new=40, samples=2)
    (short, last), (long, other) = theirs.rows
    assert (len(short), last, len(long)) == (128, 120, 128)
    # Position 159 is read in the window that starts at 64.
    assert other == 159 - 64


def test_many_rows_and_the_account(config):
    result = decode._many(config, SIZES)
    assert list(result.numbers) == ["alone, 1 row", "together, 3 rows"]
    assert all(0 < numbers["local_share"] for numbers in result.numbers.values())
    assert result.targets[1]["value"] == 0 and result.targets[1]["met"]


def test_without_torch_the_peer_says_what_to_install(config, monkeypatch):
    monkeypatch.setattr(decode.importlib.util, "find_spec", lambda name: None)
    assert "pip install torch==2.13.0, then pip install transformers" in decode._peer(config, SIZES).notes[0]


def test_parts_come_together(config, monkeypatch):
    for name in ("_recomputing", "_peer", "_byte_level", "_many", "_shares", "_long"):
        part = Result("", {name: {"rows": 1}}, (at_least(name, 2.0, 1.0),), (f"a note of {name}",))
        monkeypatch.setattr(decode, name, lambda *_, part=part: part)
    measured = decode.measure(config).as_dict()
    assert set(measured["numbers"]) == {"_recomputing", "_peer", "_byte_level", "_many", "_shares", "_long"}
    assert len(measured["targets"]) == 8 and "a note of _long" in measured["notes"]


def test_the_large_model_has_about_100_million_parameters(config):
    large = config_lib.from_flat(config_lib.flat(config_lib.default()) | decode.RATES | decode.LARGE)
    config_lib.check(large)
    assert 90e6 < sum(parameters(large).values()) < 110e6


@pytest.mark.skipif(not HAS_PEER, reason="torch and transformers not installed: bash launch/setup.sh peer")
def test_the_peer_continues_as_its_own_passes_say(config):
    from scratchpatch.bench import blt

    tokens = np.frombuffer(decoders.prompts(1, 40)[0], np.uint8)
    side = blt.Continuation(config, 4, blt._count(blt._model(config, 40)), tokens, 3)
    assert side() > 0 and side.answer.shape == (1, 43)
    assert (side.answer[0, :40] == blt._ids(config, tokens)).all()
    for n in range(40, 43):
        logits = side._model(input_ids=side.answer[:, :n], patch_lengths=blt._lengths(n, 4), use_cache=False).logits
        assert logits[0, -1].argmax() == side.answer[0, n]
