"""Parts of a model that need one another, or cannot be together: what `check` says of them, and what it lets pass."""

from fractions import Fraction

import pytest

from scratchpatch import config
from scratchpatch.errors import UserError
from tests.test_config import changed

TRUNKLESS = {"model__trunk__kind": "none", "model__entropy_head__weight": 0.0, "trigger__kind": "none"}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"trigger__kind": "entropy"}, "no trunk that trigger.kind could refresh: set trigger.kind = 'none'"),
        ({"trigger__kind": "every"}, "no trunk that trigger.kind could refresh: set trigger.kind = 'none'"),
        ({"model__entropy_head__weight": 1.0}, "no use for an entropy head: set model.entropy_head.weight = 0"),
        ({"model__entropy_model__layers": 1}, "set model.entropy_model.layers = 0"),
        ({"model__decoder__injection": "cross_attention"}, "set model.decoder.injection = 'add'"),
        ({"model__decoder__heads": 3}, "must divide the width 256"),
    ],
)
def test_a_model_without_a_trunk_has_nothing_that_needs_one(values, words):
    with pytest.raises(UserError, match=words):
        config.check(changed(**TRUNKLESS | values))


def test_a_model_without_a_trunk_asks_nothing_of_patches():
    c = changed(**TRUNKLESS, patching__patch_bytes=2048, model__decoder__layers=0, patching__kind="entropy")
    config.check(c)
    assert config.slots(c) == (0, 0) and not config.reads_entropy(c)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model__trunk__kv_heads": 2}, "kv_heads = 2 has no part in model.trunk.kind = 'ssm', .*: set it to 0"),
        ({"kernels__staircase": "xla"}, "kernels.staircase = 'xla' has no part in model.trunk.kind = 'ssm'"),
        ({"model__trunk__kind": "transformer", "model__ssm__state": 8}, "model.ssm.state = 8 has no part in a"),
        ({"model__ssm__state": 0}, "model.ssm.state = 0 must lie between 1 and 256"),
        ({"model__encoder__kind": "lstm"}, "model.encoder.kind = 'lstm' must be one of attention, ssm"),
    ],
)
def test_states_have_no_keys_and_only_they_have_states(values, words):
    # Heads need not divide a width that no head has.
    trunk = {"model__trunk__kind": "ssm", "model__trunk__d_model": 36}
    config.check(changed(**trunk))
    with pytest.raises(UserError, match=words):
        config.check(changed(**trunk | values))


def test_a_leak_is_of_patches_alone_and_nothing_continues_text_with_it():
    leaky = changed(model__leak="broadcast", trigger__kind="none")
    config.check(leaky)
    assert not config.is_causal(leaky)
    # Training goes by the audit.
    config.require_causal(leaky, "train a model")
    with pytest.raises(UserError, match="model.leak = 'broadcast' lets bytes read what follows them, so it cannot wri"):
        config.require_no_leak(leaky, "write")
    for values, words in (
        ({"trigger__kind": "every"}, "is of models without scratchpads: set trigger.kind = 'none'"),
        (TRUNKLESS, "needs patches to leak from"),
        ({"model__leak": "gaussian"}, "model.leak = 'gaussian' needs model.pooling.kind = 'gaussian'"),
    ):
        with pytest.raises(UserError, match=words):
            config.check(changed(**{"model__leak": "broadcast", "trigger__kind": "none"} | values))


def test_a_patch_of_one_bos_needs_a_budget_for_every_byte():
    for kind in ("whitespace", *config.ENTROPY_PATCHIFIERS):
        c = changed(patching__kind=kind, patching__commit_bos=True, patching__capacity=0.999)
        with pytest.raises(UserError, match="patching.commit_bos needs patching.capacity = 1.0"):
            config.check(c)
        c.patching.capacity = 1.0
        config.check(c)
    # Bytes have it anyway.
    config.check(changed(patching__kind="byte", patching__commit_bos=True))


def test_what_has_no_part_in_a_model_is_refused():
    with pytest.raises(UserError, match="patching.commit_bos has no part in patching.kind = 'fixed'"):
        config.check(changed(patching__kind="fixed", patching__commit_bos=True, patching__capacity=1.0))
    with pytest.raises(UserError, match="set model.entropy_model.layers = 0"):
        config.check(changed(**TRUNKLESS, model__entropy_model__layers=2))


@pytest.mark.parametrize(
    "values, words",
    [
        ({"model__encoder__layers": 0}, "and there are 0 encoder layers: set model.encoder.layers = 1"),
        ({"patching__patch_bytes": 1}, "needs patching.patch_bytes >= 2, not 1"),
        ({"patching__commit_bos": True, "patching__capacity": 1.0}, "set patching.commit_bos = False"),
        (TRUNKLESS, "makes no patches that a router could learn: set patching.kind = 'fixed'"),
        ({"patching__kind": "fixed", "model__smoothing": True}, "set patching.kind = 'learned', or it to False"),
        ({"patching__kind": "fixed", "patching__curriculum_steps": 9}, "moves the target of a router"),
        ({"model__decoder__injection": "cross_attention", "model__decoder__residual": "projected"}, "use .* = 'add'"),
        (TRUNKLESS | {"patching__kind": "fixed", "model__decoder__residual": "projected"}, "nothing but byte states"),
    ],
)
def test_a_router_needs_states_to_compare_patches_to_learn_and_smoothing_a_router(values, words):
    with pytest.raises(UserError, match=words):
        config.check(changed(**{"patching__kind": "learned"} | values))


def test_learned_patches_have_room_for_twice_the_lowest_target():
    capacities = [
        ({}, Fraction(1, 3)),
        ({"patching__curriculum_steps": 9}, Fraction(1)),
        ({"patching__curriculum_steps": 9, "patching__curriculum_from": 2.5}, Fraction(4, 5)),
        ({"patching__capacity": 0.25}, Fraction(1, 4)),
    ]
    for values, wanted in capacities:
        made = changed(patching__kind="learned", patching__patch_bytes=6, **values)
        config.check(made)
        assert config.commit_capacity(made) == wanted


def test_triggers_that_read_benefits_need_what_they_read():
    with pytest.raises(UserError, match="'learned' reads a head that this model lacks: set model.benefit.width"):
        config.check(changed(trigger__kind="learned"))
    with pytest.raises(UserError, match="'score' reads a table that this model lacks: set model.benefit.table = True"):
        config.check(changed(trigger__kind="score"))
    for kind in ("score", "learned"):
        c = changed(trigger__kind=kind, model__benefit__width=4, model__benefit__table=True)
        config.check(c)
        assert config.reads_entropy(c) and config.is_causal(c)
        config.require_causal(c, "train a model")
    with pytest.raises(UserError, match="model.benefit reads entropies, and model.entropy_head.weight = 0 leaves none"):
        config.check(changed(model__benefit__width=4, trigger__kind="stride", model__entropy_head__weight=0.0))
    with pytest.raises(UserError, match="no scratchpads whose benefit could be learnt"):
        config.check(changed(**TRUNKLESS, model__benefit__table=True))
    oracle = changed(trigger__kind="oracle")
    config.check(oracle)
    with pytest.raises(UserError, match="'oracle' reads the bytes that follow, so it cannot train a model: use 'lea"):
        config.require_causal(oracle, "train a model")


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
        ({"patching__kind": "entropy_and_jump", "patching__capacity": 1.0, "trigger__kind": "none"}, (1024, 0)),
        (TRUNKLESS, (0, 0)),
    ],
)
def test_slots_of_a_window(values, expected):
    assert config.slots(changed(**values)) == expected
