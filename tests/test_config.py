import json

import pytest

from scratchpatch import config
from scratchpatch.errors import UserError


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


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("training.batch_rows", 0, "must be at least 1"),
        ("trigger.kind", "entropi", "must be one of none, entropy"),
        ("optimizer.b1", 1.5, "must lie between 0.0 and 1.0"),
        ("trigger.threshold", float("nan"), "is not a number"),
        ("data.sources", (), "name at least one"),
        ("data.sources", ("text:x", 1.0), r"must hold \(SPEC, weight\) pairs"),
        ("data.sources", (("text:x", 0.0),), "a weight above 0"),
        ("model.encoder.heads", 3, "must divide the width 256"),
        ("model.trunk.kv_heads", 3, "must divide model.trunk.heads = 8"),
        ("training.accumulation", 3, "must divide training.batch_rows = 8"),
        ("patching.patch_bytes", 2048, "does not fit data.window = 1024"),
        ("patching.capacity", 1e-4, "allows no commit"),
        ("mesh.sequence", 2, "must lie between 1 and 1"),
    ],
)
def test_check_names_the_field_its_value_and_the_fix(name, value, words):
    c = config.default()
    config.set_field(c, name, value)
    with pytest.raises(UserError, match=words) as caught:
        config.check(c)
    assert name in str(caught.value)


def test_check_names_every_bad_field_together():
    with pytest.raises(UserError) as caught:
        config.check(changed(training__steps=-1, optimizer__eps=-1.0, patching__kind="fix"))
    for words in ("training.steps = -1", "optimizer.eps = -1.0", "patching.kind = 'fix'"):
        assert words in str(caught.value)


def test_cross_attention_injection_needs_a_decoder_layer():
    with pytest.raises(UserError, match="model.decoder.layers >= 1"):
        config.check(changed(model__decoder__injection="cross_attention", model__decoder__layers=0))


def test_controller_needs_a_positive_start():
    c = changed(trigger__kind="entropy_jump", trigger__threshold=-0.1)
    config.check(c)
    c.trigger.gain = 0.1
    with pytest.raises(UserError, match="trigger.threshold = -0.1 must be above 0"):
        config.check(c)


def test_difference_names_old_and_new_and_leaves_free_fields_out():
    old, new = config.default(), changed(patching__patch_bytes=8, training__checkpoint_every=7)
    assert config.difference(old, new) == ["patching.patch_bytes: 16 -> 8"]
    assert config.difference(old, new, free=True) == [
        "patching.patch_bytes: 16 -> 8",
        "training.checkpoint_every: 200 -> 7",
    ]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, (64, 320)),
        ({"trigger__kind": "none"}, (64, 0)),
        ({"trigger__kind": "every"}, (64, 1024)),
        ({"trigger__kind": "stride", "trigger__stride": 4}, (64, 256)),
        ({"trigger__capacity": 0.125}, (64, 128)),
        ({"patching__kind": "byte"}, (1024, 0)),
        ({"patching__kind": "entropy", "trigger__kind": "none"}, (96, 0)),
        ({"patching__kind": "whitespace", "trigger__kind": "none"}, (341, 0)),
        ({"patching__capacity": 0.25}, (256, 320)),
    ],
)
def test_slots_of_a_window(values, expected):
    assert config.slots(changed(**values)) == expected
