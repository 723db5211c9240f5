"""Fields of a config: defaults, checks of each, comparison, and what follows from the fields."""

import json

import pytest

from scratchpatch import config, output
from scratchpatch.errors import UserError
from scratchpatch.inference import loading


def changed(**values):
    c = config.default()
    for name, value in values.items():
        config.set_field(c, name.replace("__", "."), value)
    return c


def test_default_is_locked_valid_and_holds_every_field_once():
    c = config.default()
    config.check(c)
    assert c.is_locked
    names = [f.name for f in config.FIELDS]
    assert len(names) == len(set(names))
    assert list(config.flat(c)) == names
    for field in config.FIELDS:
        assert config.get(c, field.name) == field.default
        assert field.check(field.default) is None


def test_every_field_is_described_with_its_default():
    text = config.describe()
    for field in config.FIELDS:
        assert f"  {field.name} = {field.default!r}" in text
        assert field.meaning in text


def test_flat_survives_json_and_comes_back():
    c = changed(data__sources=(("text:a b/*.txt", 2.0), ("stdlib:prose", 1)), trigger__threshold=float("inf"), seed=7)
    back = config.from_flat(json.loads(json.dumps(config.flat(c))))
    assert config.flat(back) == config.flat(c)
    assert back.data.sources == (("text:a b/*.txt", 2.0), ("stdlib:prose", 1))
    assert config.difference(c, back, free=True) == []


def test_from_flat_fills_in_defaults_and_refuses_unknown_fields():
    assert config.from_flat({"seed": 3}).training.steps == config.default().training.steps
    with pytest.raises(UserError, match="no field 'training.stps'; the nearest is 'training.steps'"):
        config.from_flat({"training.stps": 3})


def test_set_field_takes_an_integer_for_a_float_and_a_list_for_a_tuple():
    c = changed(trigger__threshold=1, data__sources=[("stdlib:code", 1.0)])
    assert c.trigger.threshold == 1.0 and isinstance(c.trigger.threshold, float)
    assert c.data.sources == (("stdlib:code", 1.0),)


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("seed", 1.5, "int"),
        ("seed", True, "int"),
        ("seed", "1", "int"),
        ("optimizer.eps", None, "float"),
        ("optimizer.eps", True, "float"),
        ("model.pooling.last_state", 1, "bool"),
        ("data.sources", "text:x", "tuple"),
        ("data.cache_dir", 3, "str"),
    ],
)
def test_set_field_refuses_another_type(name, value, kind):
    c = config.default()
    with pytest.raises(UserError, match=f"config field {name} takes a value of type {kind}"):
        config.set_field(c, name, value)
    assert config.flat(c) == config.flat(config.default())


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_model_of_a_seed_that_jax_does_not_take_is_refused(seed):
    with pytest.raises(UserError, match=f"seed = {seed} must lie between 0 and 4294967295"):
        loading.init(config.default(), seed)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("training.batch_rows", 0, "must lie between 1 and 1048576"),
        ("trigger.kind", "entropi", "must be one of none, entropy"),
        ("optimizer.b1", 1.0, "must lie between 0.0 and 0.999999"),
        # 1 in float32.
        ("optimizer.b2", 0.99999999, "must lie between 0.0 and 0.999999"),
        ("optimizer.eps", 0.0, "must lie between 1e-30 and 1.0"),
        ("data.threads", 100_000, "must lie between 1 and 512"),
        ("data.prefetch", 10**9, "must lie between 1 and 1024"),
        ("model.trunk.layers", 10**8, "must lie between 1 and 1024"),
        ("model.trunk.d_model", 10**9, "must lie between 2 and 65536"),
        ("training.norm_spike", float("inf"), "must be above 1 and at most 1000000.0, such as 3.0, or 0 for no limit"),
        ("training.continue_from", "run@" + "9" * 5000, "must be RUN@STEP"),
        ("training.durable_dir", "a\0b", "holds a NUL, which no path has"),
        ("training.init_from", "/a/\udcff", "lies at /a/\udcff, which is no UTF-8"),
        ("training.continue_from", "/a/\udcff@5", "lies at /a/\udcff@5, which is no UTF-8"),
        ("data.sources", (("text:a\0b", 1.0),), "holds a NUL"),
        ("data.sources", (("text:x", 1.0),) * 5000, "holds 5000 sources: at most 4096"),
        ("model.encoder.ngrams", (3,) * 16, "must hold at most 15 whole numbers"),
        (
            "trigger.threshold",
            float("nan"),
            r"nan must lie between -1e\+30 and 1e\+30, or be inf for never, or -inf for always",
        ),
        ("data.sources", (), "name at least one"),
        ("data.sources", ("text:x", 1.0), r"must hold \(SPEC, weight\) pairs"),
        ("data.sources", (("text:x", 0.0),), "a weight above 0, and finite"),
        ("data.sources", (("text:x", float("nan")),), "a weight above 0, and finite"),
        ("data.sources", (("text:x", float("inf")),), "a weight above 0, and finite"),
        ("data.sources", (("text:x", True),), "a weight above 0, and finite"),
        ("data.sources", (("text:x", 10**400),), "a weight above 0, and finite"),
        ("data.sources", (("text:x", 1e308), ("text:y", 1e308)), "weights whose sum is not finite"),
        ("data.validation_sources", (("text:x", float("nan")),), "a weight above 0, and finite"),
        ("seed", 2**32, "must lie between 0 and 4294967295"),
        ("seed", -1, "must lie between 0 and 4294967295"),
        ("model.encoder.heads", 3, "must divide the width 256"),
        ("model.trunk.kv_heads", 3, "must divide model.trunk.heads = 8"),
        ("training.accumulation", 3, "must divide training.batch_rows = 8"),
        ("patching.patch_bytes", 2048, "does not fit data.window = 1024"),
        ("patching.capacity", 1e-4, "allows no commit"),
        ("mesh.sequence", 0, "must be at least 1 and at most 1048576, or -1 for the devices that the other axes leave"),
        ("model.encoder.ngrams", (3, 17), r"must hold at most 15 whole numbers from 2 to 16, such as \(3, 4, 5\)"),
        ("model.encoder.ngrams", (1,), "must hold at most 15 whole numbers from 2 to 16"),
        ("model.encoder.ngrams", (3.0,), "must hold at most 15 whole numbers from 2 to 16"),
        ("model.encoder.ngram_rows", 2_000_001, "must lie between 1 and 2000000"),
        ("model.encoder.ngram_functions", 12, "must lie between 1 and 11"),
        ("model.cross_residual", 3, "must lie between 1 and 2"),
        ("model.target_rows", 256, "must lie between 257 and 264"),
        ("model.entropy_model.heads", 3, "must divide the width 256"),
        ("patching.commit_bos", True, "needs patching.capacity = 1.0"),
        ("model.entropy_head.weight", 0.0, "which the patchifier or trigger reads: raise it, or name a model.entropy"),
    ],
)
def test_check_names_the_field_its_value_and_the_fix(name, value, words):
    c = config.default()
    config.set_field(c, name, value)
    with pytest.raises(UserError, match=words) as caught:
        config.check(c)
    assert name in str(caught.value)


NUMBERS = [field for field in config.FIELDS if type(field.default) in (int, float)]
TEXTS = [field for field in config.FIELDS if type(field.default) in (str, tuple)]
THRESHOLDS = {"patching.threshold", "patching.jump", "trigger.threshold"}


@pytest.mark.parametrize("field", NUMBERS, ids=lambda field: field.name)
def test_every_number_has_a_range_beyond_which_it_is_refused(field):
    """This holds for a field that is added tomorrow, too.

    Nothing sensible is as large as 10^31, and nothing but a threshold is infinite.
    """
    infinite = [] if field.name in THRESHOLDS else [float("inf"), float("-inf"), 10**400]
    for value in (-(10**31), 10**31, *([float("nan"), *infinite] if isinstance(field.default, float) else [])):
        c = config.default()
        config.set_field(c, field.name, value)
        stored = config.get(c, field.name)
        with pytest.raises(UserError, match=r"must (lie|be) ") as caught:
            config.check(c)
        message = str(caught.value)
        assert f"{field.name} = {output.short_repr(stored)} must" in message and len(message) < 500


@pytest.mark.parametrize("field", TEXTS, ids=lambda field: field.name)
def test_every_text_and_list_has_a_length_beyond_which_it_is_refused(field):
    c = config.default()
    config.set_field(c, field.name, "x" * 100_000 if isinstance(field.default, str) else ("x" * 100_000,) * 10)
    with pytest.raises(UserError, match=field.name) as caught:
        config.check(c)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), 0.0, -2.5])
def test_a_threshold_may_be_infinite(value):
    config.check(changed(trigger__threshold=value, patching__threshold=value, patching__jump=value))


def test_the_largest_models_and_pods_are_no_nonsense():
    """An 8B model on 4,096 chips, 64 layers, a step of 64 MiB."""
    c = config.default()
    c.model.trunk.layers = 64
    c.model.trunk.d_model = 16384
    c.model.trunk.heads = 128
    c.data.window = 8192
    c.training.batch_rows = 8192
    c.training.accumulation = 64
    c.training.keep_last = 10**9
    c.training.eval_bytes = 10**12
    c.training.steps = 10**9
    c.optimizer.b2 = 0.99999
    c.mesh.fsdp = 32
    c.mesh.slice = 64
    config.check(c)
    c.training.batch_rows = 1 << 19
    with pytest.raises(UserError, match="more than the 2147483648 bytes that one step may read: lower one of them"):
        config.check(c)


def test_a_value_of_another_type_is_shown_short():
    with pytest.raises(UserError, match="takes a value of type str, such as '', not a number of thousands of digits"):
        config.set_field(config.default(), "data.cache_dir", 10**5000)


def test_check_names_every_bad_field_together():
    with pytest.raises(UserError) as caught:
        config.check(changed(training__steps=-1, optimizer__eps=-1.0, patching__kind="fix"))
    for words in ("training.steps = -1", "optimizer.eps = -1.0", "patching.kind = 'fix'"):
        assert words in str(caught.value)


def test_cross_attention_injection_needs_a_decoder_layer():
    with pytest.raises(UserError, match="model.decoder.layers >= 1"):
        config.check(changed(model__decoder__injection="cross_attention", model__decoder__layers=0))


def test_patches_of_whole_characters_are_longer_by_three_bytes_at_most():
    for kind, limit in (("byte", 1), ("fixed", 16), ("whitespace", 64)):
        c = changed(patching__kind=kind)
        assert config.patch_limit(c) == limit
        c.patching.whole_characters = True
        assert config.patch_limit(c) == limit + 3


def test_who_reads_entropies_and_whose():
    stride = changed(trigger__kind="stride", model__entropy_head__weight=0.0)
    config.check(stride)
    assert not config.reads_entropy(stride)
    for patches, scratchpads in (("entropy_and_jump", "stride"), ("fixed", "entropy_jump")):
        c = changed(model__entropy_head__weight=0.0, patching__kind=patches, trigger__kind=scratchpads)
        assert config.reads_entropy(c)
        with pytest.raises(UserError, match="leaves no entropy head"):
            config.check(c)
        c.model.entropy_model.layers = 1
        config.check(c)
    # No scratchpad can fire between patches of one byte.
    assert not config.reads_entropy(changed(patching__kind="byte", trigger__kind="entropy"))


def test_the_entropy_model_is_a_plain_byte_model_of_its_own():
    fields = {"layers": 3, "d_byte": 96, "heads": 6, "window": 40}
    fields |= {"ffn_multiplier": 2.0, "rope_theta": 500.0, "norm_eps": 1e-4}
    c = changed(**{f"model__entropy_model__{name}": value for name, value in fields.items()}, data__window=300)
    c.model.target_rows = 260
    own = config.entropy_model(c)
    config.check(own)
    m = own.model
    assert (m.encoder.layers, m.d_byte, m.encoder.heads, m.encoder.window) == (3, 96, 6, 40)
    assert (m.ffn_multiplier, m.rope_theta, m.norm_eps, m.target_rows) == (2.0, 500.0, 1e-4, 260)
    assert (m.trunk.kind, m.decoder.layers, m.encoder.ngrams, m.entropy_model.layers) == ("none", 0, (), 0)
    assert own.data.window == 300 and not config.reads_entropy(own)


def test_controller_needs_a_positive_start():
    c = changed(trigger__kind="entropy_jump", trigger__threshold=-0.1)
    config.check(c)
    c.trigger.gain = 0.1
    with pytest.raises(UserError, match="trigger.threshold = -0.1 must be above 0"):
        config.check(c)


def test_gradients_are_summed_in_bfloat16_only_where_activations_are():
    c = changed(training__dtype="bfloat16", training__gradient_dtype="bfloat16")
    config.check(c)
    c.training.dtype = "float32"
    with pytest.raises(UserError, match="training.gradient_dtype = 'bfloat16' needs training.dtype = 'bfloat16'"):
        config.check(c)


def test_difference_names_old_and_new_and_leaves_free_fields_out():
    old, new = config.default(), changed(patching__patch_bytes=8, training__checkpoint_every=7)
    assert config.difference(old, new) == ["patching.patch_bytes: 16 -> 8"]
    assert config.difference(old, new, free=True) == [
        "patching.patch_bytes: 16 -> 8",
        "training.checkpoint_every: 200 -> 7",
    ]
