"""Score, segment, generate and override of one tiny model with random weights.

Legend: n bytes of a document.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scratchpatch as sp
from scratchpatch import config as config_lib
from scratchpatch.checkpoints import workdir as workdir_lib
from scratchpatch.checkpoints.writer import Checkpoints
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.errors import UserError
from scratchpatch.inference import loading, windows
from scratchpatch.inference.language_model import LanguageModel
from scratchpatch.model import weights as weights_lib
from scratchpatch.vocabulary import BYTES
from tests import runs, tiny
from tests.inference.models import FIELDS, WINDOW, language_model, log2_p, some_bytes

BOS = BYTES.bos

HALF = WINDOW // 2
DOCUMENTS = {
    "empty": b"",
    "one byte": b"a",
    "all values": bytes(range(256)),
    "invalid UTF-8": b"\xff\xfe\x80ab\xc3(\xf0\x9f",
    **{f"{n} bytes": some_bytes(n) for k in (1, 2, 3, 6) for n in (k * HALF - 2, k * HALF - 1, k * HALF)},
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_score_is_a_log_probability_for_each_byte(name):
    data = DOCUMENTS[name]
    score_n = language_model().score(data)
    assert score_n.shape == (len(data),) and score_n.dtype == np.float64
    assert np.isfinite(score_n).all() and (score_n <= 0).all()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_score_is_the_models_own_in_the_window_that_answers(name):
    tokens = [BOS, *DOCUMENTS[name]]
    expected = []
    for w in windows.plan(len(tokens), WINDOW):
        p_LV = log2_p(tokens[w.start : w.start + WINDOW])
        for n in range(w.first, min(w.first + w.count, len(tokens) - 1)):
            expected.append(p_LV[n - w.start, tokens[n + 1]])
    np.testing.assert_allclose(language_model().score(DOCUMENTS[name]), expected, atol=1e-4)


@pytest.mark.parametrize("size", (HALF, 3 * WINDOW))
def test_later_bytes_do_not_change_earlier_scores(size):
    data, other = some_bytes(size), some_bytes(size, seed=1)
    before = language_model().score(data)
    for cut in range(0, size, 7):
        after = language_model().score(data[:cut] + other[cut:])
        assert (after[:cut] == before[:cut]).all()


def test_more_bytes_do_not_change_earlier_scores():
    data = some_bytes(100)
    whole = language_model().score(data)
    for size in (0, 1, HALF, WINDOW - 1, WINDOW, WINDOW + 1, 70):
        np.testing.assert_allclose(language_model().score(data[:size]), whole[:size], atol=1e-4)


def test_probabilities_of_what_may_follow_add_up_to_one():
    lm, prefix = language_model(), b"ab"
    p = [2 ** lm.score(prefix + bytes([b]))[-1] for b in range(256)]
    ended = windows.Text(np.array([BOS, *prefix, BOS], np.int32), BYTES)
    end = next(lm.positions(ended)).nats[len(prefix)]
    assert 0 < sum(p) < 1
    assert sum(p) + np.exp(-end) == pytest.approx(1, abs=1e-5)


def test_two_models_of_the_same_weights_agree():
    lm = language_model()
    assert (LanguageModel(lm.config, lm.weights).score(b"same") == lm.score(b"same")).all()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_segmentation_has_a_decision_for_each_byte(name):
    data = DOCUMENTS[name]
    found = language_model().segment(data)
    for array_n in (found.entropy, found.commit, found.scratchpad):
        assert array_n.shape == (len(data),)
    assert found.commit.dtype == bool and found.scratchpad.dtype == bool
    assert not (found.commit & found.scratchpad).any()
    assert ((found.entropy >= 0) & (found.entropy <= np.log(257) + 1e-5)).all()


def test_patches_count_from_the_documents_start():
    lm, data = language_model(), some_bytes(WINDOW - 1)
    found = lm.segment(data)
    # The document's beginning is the first position of its first patch of 5.
    assert np.flatnonzero(found.commit).tolist() == [3, 8, 13, 18, 23, 28]
    fires = (found.entropy > 4.0) & ~found.commit
    assert found.scratchpad.any() and not found.scratchpad[~fires].any()
    # 5/8 scratchpads a byte: what fires is refused only where that is spent.
    spent = np.cumsum(found.scratchpad) >= (np.arange(len(data)) + 2) * 5 // 8 - 1
    assert (found.scratchpad | ~fires | spent).all()


def test_a_segmentation_is_causal():
    data, other = some_bytes(3 * WINDOW), some_bytes(3 * WINDOW, seed=1)
    before, after = language_model().segment(data), language_model().segment(data[:50] + other[50:])
    for name in ("entropy", "commit", "scratchpad"):
        assert (getattr(before, name)[:50] == getattr(after, name)[:50]).all()
    assert (before.entropy[50:] != after.entropy[50:]).any()


@pytest.mark.parametrize("prompt", (b"", b"the ", b"\xff\xc3(", some_bytes(WINDOW - 3), some_bytes(2 * WINDOW + 5)))
def test_greedy_bytes_are_the_likeliest_ones(prompt):
    made = language_model().generate(prompt, max_bytes=6)
    assert len(made) == 6
    tokens = [BOS, *prompt]
    for byte in made:
        *_, window = windows.plan(len(tokens), WINDOW)
        assert log2_p(tokens[window.start :])[-1].argmax() == byte
        tokens.append(byte)


def test_greedy_bytes_score_best():
    lm = language_model()
    (best,) = lm.generate(b"ab", max_bytes=1)
    scores = [lm.score(b"ab" + bytes([b]))[-1] for b in range(256)]
    assert np.argmax(scores) == best


def test_a_sample_follows_its_seed():
    def sample(**more):
        return language_model().generate(b"ab", max_bytes=12, **more)

    assert sample(temperature=1.0, seed=3) == sample(temperature=1.0, seed=3)
    assert len({sample(temperature=1.0, seed=s) for s in range(4)}) > 1
    assert sample(temperature=1e-6, seed=3) == sample()
    assert sample(seed=1) == sample(seed=2)


def test_a_sample_goes_on_from_its_own_bytes():
    lm = language_model()
    made = lm.generate(b"ab", max_bytes=8)
    assert lm.generate(b"ab" + made[:3], max_bytes=5) == made[3:]
    assert lm.generate(b"ab", max_bytes=3) == made[:3]


def test_streams_side_by_side_have_their_own_bytes():
    lm = language_model()
    prompts, streams = (b"ab", b"xyz"), [lm.stream(prompt, 40) for prompt in (b"ab", b"xyz")]
    made = [bytes(byte.value for byte in row) for row in zip(*zip(*streams, strict=True), strict=True)]
    assert made == [lm.generate(prompt, 40) for prompt in prompts]
    # One that was left before its end leaves nothing to the next.
    stream = lm.stream(b"ab", 1000)
    next(stream)
    stream.close()
    assert lm.generate(b"xyz", 40) == made[1]


def test_nothing_is_generated_where_nothing_is_asked_for():
    assert language_model().generate(b"ab", max_bytes=0) == b""


@pytest.mark.parametrize("bad", ({"temperature": -1.0}, {"max_bytes": -1}, {"seed": -1}))
def test_negative_wishes_are_refused(bad):
    with pytest.raises(UserError, match="-1.*must be a"):
        language_model().generate(b"", **bad)


def test_a_named_threshold_holds_without_controller_and_budget():
    lm, data = language_model(), some_bytes(20)
    other = lm.override({"trigger.threshold": 100.0})
    assert (other.config.trigger.gain, other.config.trigger.capacity, other.step) == (0.0, 1.0, 7)
    assert not other.segment(data).scratchpad.any()
    every = other.override(trigger__threshold=0.0)
    assert (every.segment(data).scratchpad ^ every.segment(data).commit).all()
    assert every.segment(data).scratchpad.sum() > lm.segment(data).scratchpad.sum() > 0
    assert lm.config.trigger.threshold == 4.0
    kept = lm.override({"trigger.threshold": 0.1, "trigger.gain": 0.5, "trigger.capacity": 0.25})
    assert (kept.config.trigger.gain, kept.config.trigger.capacity) == (0.5, 0.25)
    # Until its first scratchpad a document reads the same either way.
    first = np.flatnonzero(lm.segment(data).scratchpad)[0]
    assert (other.score(data)[: first + 1] == lm.score(data)[: first + 1]).all()
    assert (other.score(data)[first + 1 :] != lm.score(data)[first + 1 :]).any()


def test_other_thresholds_compile_nothing():
    """Neither from the model as trained, whose budget the first one lifts, nor from a model with other ones."""
    lm, data = language_model(), some_bytes(20)
    counts = {}

    def count(t):
        with runs.compilations() as compiled:
            counts[t] = lm.override({"trigger.threshold": t}).segment(data).scratchpad.sum()
        return len(compiled)

    first = count(5.3)
    assert [count(t) for t in (0.1, 4.0, 9.0)] == [0, 0, 0] and first <= 2
    assert counts[0.1] > counts[4.0] > counts[9.0] == 0
    with runs.compilations() as compiled:
        language_model().override({"trigger.threshold": 1.0}).override(trigger__threshold=2.0).score(data)
    assert not compiled


def test_no_trigger_is_a_threshold_that_nothing_reaches():
    lm, data = language_model(), some_bytes(40)
    plain = lm.override(**{"trigger.kind": "none"})
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y), plain.weights["params"], lm.weights["params"])
    np.testing.assert_allclose(plain.score(data), lm.override({"trigger.threshold": 100.0}).score(data), atol=1e-5)
    assert not plain.segment(data).scratchpad.any()


def test_a_window_longer_than_trained_on_sees_the_whole_document():
    lm, data = language_model(), some_bytes(50)
    longer = lm.override({"data.window": 64}).segment(data)
    assert np.flatnonzero(longer.commit).tolist() == list(range(3, 50, 5))


def test_a_change_that_needs_other_parameters_is_refused():
    with pytest.raises(UserError, match="needs other parameters"):
        language_model().override({"model.d_byte": 32})


def test_an_unknown_field_names_the_nearest():
    with pytest.raises(UserError, match=r"no field 'trigger.treshold'; the nearest is 'trigger.threshold'"):
        language_model().override({"trigger.treshold": 1.0})


@pytest.mark.parametrize("bad", ({"trigger.kind": "never"}, {"trigger.stride": "four"}, {"patching.patch_bytes": 0}))
def test_a_bad_value_is_refused(bad):
    (name,) = bad
    with pytest.raises(UserError, match=name):
        language_model().override(bad)


def test_init_follows_its_seed():
    # Compiling an initialisation takes seconds: few layers.
    shallow = dict.fromkeys((f"model.{tier}.layers" for tier in ("encoder", "entropy_head", "decoder")), 0)
    config = tiny.config(FIELDS | shallow | {"model.pooling.kind": "last"})
    one, same, other = sp.init(config), sp.init(config, seed=0), sp.init(config, seed=1)
    leaves = [jax.tree.leaves(lm.weights["params"]) for lm in (one, same, other)]
    assert all((a == b).all() for a, b in zip(leaves[0], leaves[1], strict=True))
    assert any((a != b).any() for a, b in zip(leaves[0], leaves[2], strict=True))
    assert one.weights["thresholds"]["trigger_threshold"] == 4.0
    # As good as knowing nothing: 257 tokens, about 8 bits each.
    assert one.score(b"hello world").mean() == pytest.approx(-np.log2(257), abs=0.5)


def test_init_refuses_a_bad_config():
    config = config_lib.default()
    config.model.trunk.heads = 7
    with pytest.raises(UserError, match=r"model.trunk.heads = 7"):
        sp.init(config)


def test_load_reads_the_newest_or_the_named_step(tmp_path):
    lm = language_model()
    weights = jax.tree.map(jnp.asarray, lm.weights)
    doubled = jax.tree.map(lambda x: 2 * x, weights)
    workdir_lib.guard_workdir(tmp_path, lm.config)
    checkpoints = Checkpoints(tmp_path / "checkpoints", lm.config, keep_last=2)
    checkpoints.save(1, {**weights, "step": jnp.int32(1)})
    checkpoints.save(2, {**doubled, "step": jnp.int32(2)})
    checkpoints.close()
    newest, first = sp.load(tmp_path), sp.load(tmp_path, step=1)
    assert (newest.step, first.step) == (2, 1)
    assert newest.weights["thresholds"]["trigger_threshold"] == 8.0
    assert (first.score(b"abc") == lm.score(b"abc")).all()
    with pytest.raises(UserError, match="no checkpoint of step 5"):
        sp.load(tmp_path, step=5)
    with pytest.raises(UserError, match="is no workdir"):
        sp.load(tmp_path / "nowhere")


def test_a_fingerprint_tells_weights_and_models_apart():
    lm = language_model()
    config = config_lib.from_flat(config_lib.flat(lm.config))
    config_lib.set_field(config, "training.steps", 99)
    same = LanguageModel(config, jax.tree.map(jnp.asarray, lm.weights), step=8)
    assert same.fingerprint() == lm.fingerprint() and len(lm.fingerprint()) == 16
    other = lm.with_weights(jax.tree.map(lambda x: x * np.float32(1.0001), lm.weights), 7)
    assert len({lm.fingerprint(), other.fingerprint(), lm.override({"trigger.threshold": 3.0}).fingerprint()}) == 3


def test_weights_of_another_moment_keep_the_pass():
    lm = language_model()
    weights = {"params": jax.tree.map(lambda x: 0.5 * x, lm.weights["params"]), "thresholds": lm.weights["thresholds"]}
    later = lm.with_weights(weights, 9)
    assert later.step == 9 and later._positions is lm._positions
    assert (later.score(b"abc") != lm.score(b"abc")).any()
    assert weights_lib.abstract(later.config)[1].keys() == weights.keys()


def test_weights_spread_over_a_mesh_score_as_on_one_device():
    """`test_engine_mesh` has what they write, on other meshes."""
    sizes = {"fsdp": 2, "tensor": 2, "sequence": 2}
    config, alone = tiny.config(FIELDS | {f"mesh.{k}": v for k, v in sizes.items()}), tiny.config(FIELDS)
    spread = jax.device_put(tiny.weights(alone), weights_lib.shardings(config, mesh_lib.make(config)))
    one, many = LanguageModel(alone, tiny.weights(alone)), LanguageModel(config, spread)
    text = bytes(np.random.default_rng(0).integers(0, 256, 200, dtype=np.uint8))
    np.testing.assert_allclose(many.score(text), one.score(text), atol=1e-4)


def test_a_checkpoint_is_restored_over_several_devices_each_with_its_share(tmp_path):
    config, workdir = runs.untrained(tmp_path)
    found = loading.load(workdir, devices=4)
    kernel = found.weights["params"]["trunk"]["stack"]["block"]["ffn"]["up"]["kernel"]
    assert kernel.addressable_shards[0].data.size * 4 == kernel.size
    np.testing.assert_allclose(found.score(b"some text"), loading.load(workdir).score(b"some text"), atol=1e-4)
    with pytest.raises(UserError, match="9 devices were asked for; there are 8"):
        loading.load(workdir, devices=9)
