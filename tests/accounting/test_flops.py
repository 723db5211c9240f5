"""FLOPs: against XLA's own count, and the shape of the formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scratchpatch import config as config_lib
from scratchpatch.accounting import flops
from scratchpatch.accounting.parameters import parameters
from scratchpatch.kernels import diagonal
from scratchpatch.model import loss, stack, weights as weights_lib
from scratchpatch.vocabulary import BYTES as VOCABULARY
from tests import tiny

BLT = {
    "model.encoder.ngrams": (3, 4, 5),
    "model.encoder.ngram_rows": 1000,
    "model.cross_residual": 2,
    "model.trunk.final_norm": False,
    "model.entropy_model.layers": 2,
    "model.entropy_model.window": 64,
    "model.entropy_head.weight": 0.0,
    "patching.commit_bos": True,
    "patching.capacity": 1.0,
}
# Little else beside the pooling, so that 2% of the whole is little of it.
POOLED = {
    "model.trunk.layers": 1,
    "model.encoder.layers": 0,
    "model.decoder.layers": 0,
    "model.entropy_head.weight": 0.0,
}
BYTES = {"model.trunk.kind": "none", "model.entropy_head.weight": 0.0, "trigger.kind": "none"}


# Wide enough that matrix products are all but everything.
WIDE = {
    "data.window": 256,
    "model.d_byte": 256,
    "model.encoder.window": 32,
    "model.trunk.layers": 2,
    "model.trunk.d_model": 512,
    "model.decoder.window": 32,
}


def made(*fields):
    """A checked config of several dicts of fields, later ones before earlier ones."""
    config = config_lib.default()
    for name, value in {name: value for each in fields for name, value in each.items()}.items():
        config_lib.set_field(config, name, value)
    config_lib.check(config)
    return config


def wide_config(trigger="entropy", fields=None):
    return made(WIDE, {"trigger.kind": trigger}, fields or {})


def xla_flops(config):
    definition, weights = weights_lib.abstract(config)
    tokens_BL = jax.ShapeDtypeStruct((1, config.data.window), jnp.int32)

    def logits(weights, tokens_BL):
        output = weights_lib.merge(definition, weights)(tokens_BL)
        return output.logits_BLV, output.head_logits_BLV, output.entropy_BL

    with stack.unrolled():
        compiled = jax.jit(logits).lower(weights, tokens_BL).compile()
    return compiled.cost_analysis()["flops"] / config.data.window


def test_a_benefit_head_counts_where_it_is_read():
    head = {"model.benefit.width": 24}
    # The state, the entropy, its jump and a constant; a number for each of 7 ages.
    wanted = 2 * 24 * (256 + 3 + 7)
    for kind, at_inference in (("learned", wanted), ("entropy", None)):
        config = wide_config(kind, head)
        assert flops.inference(config, 1 / 16, 0.25, 256).get("benefit head") == at_inference
        assert flops.training(config, 1 / 16, 0.25, 256)["benefit head"] == 3 * wanted
    assert parameters(wide_config("learned", head))["benefit head"] == 256 + 24 * (256 + 3 + 7)
    assert "benefit head" not in flops.training(wide_config(), 1 / 16, 0.25, 256)


BYTE_PATCHES = {"patching.kind": "byte", "trigger.kind": "none"}
MAX_QUERY = {"model.pooling.kind": "max_query"}
VARIANTS = {
    "default": {},
    "cross_attention-mean": {
        "model.decoder.injection": "cross_attention",
        "model.pooling.kind": "mean",
        "model.trunk.kv_heads": 2,
    },
    "tokens-last": BYTE_PATCHES
    | {
        "data.tokenizer": "any.json",
        "data.vocabulary": 4096,
        "model.entropy_head.weight": 0.0,
        "model.pooling.kind": "last",
    },
    "every": {"trigger.kind": "every"},
    "spacebyte": {
        "patching.kind": "whitespace",
        "trigger.kind": "none",
        "model.pooling.kind": "last",
        "model.pooling.last_state": False,
        "model.decoder.injection": "at_slot",
    },
    "megabyte": {
        "patching.patch_bytes": 8,
        "trigger.kind": "none",
        "model.encoder.layers": 0,
        "model.pooling.kind": "concat",
        "model.pooling.last_state": False,
        "model.decoder.scope": "patch",
    },
    "max_query-3": MAX_QUERY | {"model.pooling.last_state": False, "model.pooling.queries": 3},
    "concat": POOLED | {"model.pooling.kind": "concat", "model.pooling.last_state": False, "trigger.kind": "every"},
    "byte-concat": BYTE_PATCHES | POOLED | {"model.pooling.kind": "concat"},
    # Two queries of 256 fill the trunk's 512, four do not.
    "byte-max_query-2": BYTE_PATCHES | MAX_QUERY | POOLED,
    "byte-max_query-4": BYTE_PATCHES | MAX_QUERY | POOLED | {"model.pooling.queries": 4},
    "blt": MAX_QUERY
    | BLT
    | {
        "model.decoder.injection": "cross_attention",
        "patching.kind": "entropy_and_jump",
        "trigger.kind": "none",
    },
    "learned": {
        "patching.kind": "learned",
        "model.smoothing": True,
        "model.pooling.kind": "last",
        "model.decoder.residual": "projected",
        "trigger.kind": "none",
        "model.entropy_head.weight": 0.0,
    },
    "head and entropy model": {
        "model.entropy_model.layers": 1,
        "model.entropy_model.d_byte": 384,
        "model.entropy_model.ffn_multiplier": 2.0,
    },
    "states": {
        "model.encoder.kind": "ssm",
        "model.trunk.kind": "ssm",
        "model.decoder.kind": "ssm",
        "model.ssm.selective": True,
        "trigger.kind": "every",
    },
    "no trunk, n-grams": BYTES | {"model.encoder.ngrams": (2, 3), "model.encoder.layers": 3},
}


def recurrences(config) -> float:
    """FLOPs per byte of all recurrences: they are loops, of which XLA counts one position."""
    m = config.model
    at_slots = sum(config_lib.slots(config)) / config.data.window
    layers = {m.d_byte: sum(t.layers for t in (m.encoder, m.decoder) if t.kind == "ssm")}
    layers[m.trunk.d_model] = at_slots * m.trunk.layers if m.trunk.kind == "ssm" else 0
    return sum(number * flops.recurrence(config, width) for width, number in layers.items())


@pytest.mark.parametrize("is_complex", (False, True))
def test_one_position_of_a_recurrence_is_what_xla_counts(is_complex):
    config = made({"model.encoder.kind": "ssm", "model.ssm.state": 64, "model.ssm.complex": is_complex})
    number = tuple(jax.ShapeDtypeStruct((64, 64), jnp.float32) for _ in range(1 + is_complex))

    def position(decay, read, state, u):
        a, b = decay, decay[0]
        now = diagonal.advance(a, b, state, u)
        return now, diagonal.said(read, now)

    u = jax.ShapeDtypeStruct((64,), jnp.float32)
    counted = jax.jit(position).lower(number, number, number, u).compile().cost_analysis()["flops"]
    assert flops.recurrence(config, 64) == pytest.approx(counted, rel=0.02)


@pytest.mark.parametrize("name", VARIANTS)
def test_compiled_flops_agree_with_xla_within_two_percent(name):
    config = made(WIDE, VARIANTS[name])
    ours = sum(flops.compiled(config, config.data.window).values()) - recurrences(config)
    assert ours == pytest.approx(xla_flops(config), rel=0.02)


# A product of [m, k] and [k, n] is 2 m k n: numbers by hand for widths of 16 (bytes) and 32 (trunk, 2 of 4 key-value
# heads: keys and values of 16), and feed-forward widths of 48 and 96, the next multiples of 16 above 8/3.
HAND = {
    "data.window": 64,
    "model.d_byte": 16,
    "model.encoder.heads": 2,
    "model.encoder.window": 10,
    "model.decoder.heads": 2,
    "model.decoder.window": 6,
    "model.pooling.heads": 2,
    "model.trunk.layers": 2,
    "model.trunk.d_model": 32,
    "model.trunk.heads": 4,
    "model.trunk.kv_heads": 2,
    "patching.patch_bytes": 8,
    "patching.max_patch_bytes": 8,
}
# Of 100 positions: keys of 9, 7 and 5 a position, of 4 a slot, and 1.5 pooled bytes a position.
SUMS = {
    "positions": 100.0,
    "commits": 20.0,
    "scratchpads": 30.0,
    "encoder_keys": 900.0,
    "entropy_keys": 700.0,
    "decoder_keys": 500.0,
    "trunk_keys": 200.0,
    "pool_keys": 150.0,
}


def hand_config(fields):
    return made(HAND, fields)


def test_a_step_of_counted_keys_costs_what_a_hand_computes():
    config = hand_config({"model.encoder.layers": 1, "model.entropy_head.layers": 2, "model.decoder.layers": 3})
    projections, ffn, logits = 4 * 2 * 16 * 16, 3 * 2 * 16 * 48, 2 * 16 * 264
    tiers = {
        "encoder": projections + ffn + 2 * 2 * 16 * 9,  # logits and values of 9 keys
        "entropy head": 2 * (projections + ffn + 2 * 2 * 16 * 9) + logits,
        # Half a slot a position: q and o of 32 x 32, k and v of 32 x 16, 4 keys.
        "trunk": 0.5 * 2 * (2 * 2 * 32 * 32 + 2 * 2 * 32 * 16 + 3 * 2 * 32 * 96 + 2 * 2 * 32 * 4),
        # k and v of every byte; of every slot q, o, and two ways into the trunk; 1.5 keys.
        "pooling": 2 * 2 * 16 * 16 + 0.5 * (2 * 2 * 16 * 16 + 2 * 2 * 16 * 32) + 2 * 2 * 16 * 1.5,
        "decoder": 3 * (projections + ffn + 2 * 2 * 16 * 5) + logits + 0.5 * 2 * 32 * 16,
    }
    assert tiers["encoder"] == 7232 and tiers["entropy head"] == 22_912 and tiers["trunk"] == 25_088
    assert tiers["pooling"] == 2656 and tiers["decoder"] == 29_888
    assert flops.trained(config, SUMS) == 100 * 3 * 87_776 == pytest.approx(100 * 3 * sum(tiers.values()))
    # Three passes' worth, whatever the backward pass recomputes.
    config.training.remat = "full"
    assert flops.trained(config, SUMS) == 100 * 3 * 87_776


def test_a_step_of_a_blt_costs_what_a_hand_computes():
    fields = {
        "model.decoder.injection": "cross_attention",
        "model.entropy_head.weight": 0.0,
        "model.entropy_model.layers": 2,
        "model.entropy_model.d_byte": 24,
        "model.entropy_model.heads": 2,
        "model.entropy_model.ffn_multiplier": 2.0,
    }
    config = hand_config(fields | MAX_QUERY)
    block = 4 * 2 * 16 * 16 + 3 * 2 * 16 * 48
    context = 0.5 * 2 * 32 * 2 * 16
    tiers = {
        "encoder": block + 2 * 2 * 16 * 9,
        "trunk": 25_088,
        # Two queries of 16 are the trunk's 32: no way in but the last state's. Queries, then q and o of both, 1.5 keys.
        "pooling": 2 * 2 * 16 * 16 + 0.5 * (2 * 16 * 32 + 2 * 16 * 2 * 16 + 2 * 2 * 2 * 16 * 16) + 2 * 2 * 2 * 16 * 1.5,
        # Two vectors a slot, k and v of each in both layers; a byte's q and o, and its two keys.
        "decoder": 2 * (block + 2 * 2 * 16 * 5 + 0.5 * 2 * 2 * 2 * 16 * 16 + 2 * 2 * 16 * 16 + 2 * 2 * 16 * 2)
        + (2 * 16 * 264 + context),
    }
    frozen = 2 * (4 * 2 * 24 * 24 + 3 * 2 * 24 * 48 + 2 * 2 * 24 * 7) + 2 * 24 * 264
    assert sum(tiers.values()) == 7232 + 25_088 + 3264 + 27_776 and frozen == 37_056
    assert flops.trained(config, SUMS) == 100 * (3 * 63_360 + 37_056)


def test_the_compiled_program_is_what_a_hand_computes():
    fields = {
        "model.encoder.layers": 1,
        "model.entropy_head.layers": 1,
        "model.decoder.layers": 1,
        "trigger.kind": "every",
    }
    config = hand_config(fields)
    block, slots = 4 * 2 * 16 * 16 + 3 * 2 * 16 * 48, (8 + 64) / 64
    # Windows of 10 and 6 run in blocks of 16, each with its predecessor; a slot multiplies with 8 commits and itself.
    assert flops.compiled(config, 64) == pytest.approx(
        {
            "encoder": block + 2 * 2 * 16 * 32,
            "entropy head": block + 2 * 2 * 16 * 32 + 2 * 16 * 264,
            "pooling": 2 * 2 * 16 * 16 + slots * (2 * 2 * 16 * 16 + 2 * 2 * 16 * 32 + 2 * 2 * 16 * 8),
            "trunk": slots * 2 * (2 * 2 * 32 * 32 + 2 * 2 * 32 * 16 + 3 * 2 * 32 * 96 + 2 * 2 * 32 * 9),
            "decoder": block + 2 * 2 * 16 * 32 + 2 * 16 * 264 + slots * 2 * 32 * 16,
        }
    )


def counted_of(config, tokens_BL):
    """The work on rows of a layout that the patching itself decided."""

    def sums(tokens_BL):
        layout = tiny.decide(config, tokens_BL, jnp.zeros(tokens_BL.shape))
        slots = {"commits": layout.commit_BL.sum(), "scratchpads": layout.scratchpad_BL.sum()}
        return loss.keys(config, layout) | slots | {"positions": tokens_BL.size}

    return flops.counted({k: float(v) for k, v in jax.jit(sums)(tokens_BL).items()})


@pytest.mark.parametrize("trigger", ["none", "every", "stride"])
def test_expected_keys_are_those_of_a_layout_whose_document_fills_the_window(trigger):
    """All exact but the trunk's: half of the window's commits is right but for a key or so."""
    config = hand_config({"trigger.kind": trigger, "trigger.stride": 2, "data.window": 128})
    scratchpads = {"none": 0.0, "every": 7 / 8, "stride": 3 / 8}[trigger]
    counted = counted_of(config, np.arange(128)[None] % 200)
    expected = flops.expected(config, 1 / 8, scratchpads, 128)
    assert counted.slots == expected.slots == 1 / 8 + scratchpads
    assert counted.encoder_keys == expected.encoder_keys == (sum(range(1, 10)) + 119 * 10) / 128
    assert counted.decoder_keys == expected.decoder_keys == (sum(range(1, 6)) + 123 * 6) / 128
    # A stride of 2 stands at bytes 2, 4 and 6 of 8.
    assert counted.pool_keys == expected.pool_keys == {"none": 8, "every": 36, "stride": 20}[trigger] / 8
    assert counted.trunk_keys == pytest.approx(expected.trunk_keys, abs=0.5) and expected.trunk_keys == 9


def test_a_decoder_of_scope_patch_sees_the_bytes_of_its_patch():
    """Segments of 7 bytes, then of 8, the last of one: not exactly those of whole patches."""
    config = hand_config({"trigger.kind": "none", "data.window": 128, "model.decoder.scope": "patch"})
    counted = counted_of(config, np.arange(128)[None] % 200)
    of_7, of_8 = sum(range(1, 7)) + 6, sum(range(1, 7)) + 2 * 6
    assert counted.decoder_keys == (of_7 + 15 * of_8 + 1) / 128
    expected = flops.expected(config, 1 / 8, 0.0, 128)
    assert expected.decoder_keys == of_8 / 8 and expected.encoder_keys == counted.encoder_keys


def test_a_patch_is_pooled_as_long_as_it_is_and_no_longer_than_the_limit():
    config = hand_config({"patching.kind": "whitespace", "patching.max_patch_bytes": 16, "data.window": 128})
    assert flops.expected(config, 1 / 8, 1 / 4, 128).pool_keys == 1 / 8 * 8 + 1 / 4 * 4
    assert flops.expected(config, 1 / 64, 1 / 4, 128).pool_keys == 1 / 64 * 16 + 1 / 4 * 8


def test_sums_over_tiers_tell_commits_from_scratchpads():
    config = wide_config()
    total, swapped = (sum(flops.inference(config, *rates, 256).values()) for rates in ((1 / 16, 0.1), (0.1, 1 / 16)))
    assert flops.flops_per_byte(config, 1 / 16, 0.1, 256) == total != swapped


def test_short_documents_are_not_credited_with_half_the_window():
    config = hand_config({"data.window": 128, "trigger.kind": "every"})
    tokens_BL = np.tile(np.r_[VOCABULARY.bos, np.arange(15)], (1, 8))  # of 16 positions, two patches
    counted, expected = counted_of(config, tokens_BL), flops.expected(config, 1 / 8, 7 / 8, 128)
    # A slot of the first patch sees itself, one of the second a commit as well.
    assert counted.trunk_keys == 1.5 and expected.trunk_keys == 9
    assert counted.encoder_keys == (sum(range(1, 10)) + 7 * 10) / 16 and counted.slots == expected.slots == 1


def test_trunk_and_pooling_scale_with_trunk_calls():
    config = wide_config()
    config.data.window = 4096
    a, b = (flops.useful(config, 1 / 16, r, 4096) for r in (0.0, 3 / 16))
    assert b["trunk"] == pytest.approx(4 * a["trunk"])
    assert b["encoder"] == a["encoder"]
    assert b["entropy head"] == a["entropy head"]


def test_head_counts_at_inference_only_where_decisions_read_it():
    reads, ignores = wide_config(), wide_config(trigger="stride")
    head = flops.useful(reads, 1 / 16, 0.1, 256)["entropy head"]
    costs = [flops.flops_per_byte(config, 1 / 16, 0.1, 256) for config in (reads, ignores)]
    assert costs[0] - costs[1] == pytest.approx(head)
    assert flops.training(reads, 1 / 16, 0.1, 256) == flops.training(ignores, 1 / 16, 0.1, 256)


def test_a_frozen_entropy_model_counts_once_and_takes_the_heads_place():
    model = {"model.entropy_model.layers": 2}
    reads, ignores = wide_config(fields=model), wide_config(trigger="stride", fields=model)
    tiers = flops.useful(reads, 1 / 16, 0.1, 256)
    assert flops.inference(reads, 1 / 16, 0.1, 256) == {k: v for k, v in tiers.items() if k != "entropy head"}
    assert not {"entropy head", "entropy model"} & flops.inference(ignores, 1 / 16, 0.1, 256).keys()
    training = flops.training(reads, 1 / 16, 0.1, 256)
    assert training == {k: v * (1 if k == "entropy model" else 3) for k, v in tiers.items()}
    without = {k: v for k, v in training.items() if k != "entropy model"}
    assert flops.training(ignores, 1 / 16, 0.1, 256) == without
    prepared = wide_config(fields=model | {"data.entropies": True})
    assert flops.training(prepared, 1 / 16, 0.1, 256) == without
    assert flops.inference(prepared, 1 / 16, 0.1, 256) == flops.inference(reads, 1 / 16, 0.1, 256)
    # It costs what a plain byte model of its shape costs.
    alone = flops.inference(config_lib.entropy_model(reads), 0, 0, 256)
    assert tiers["entropy model"] == pytest.approx(sum(alone.values()))


def test_look_ups_cost_nothing():
    plain, looked_up = wide_config(), wide_config(fields={"model.encoder.ngrams": (3, 4, 5)})
    assert flops.useful(plain, 1 / 16, 0.1, 256) == flops.useful(looked_up, 1 / 16, 0.1, 256)


def test_without_a_trunk_there_are_two_tiers():
    bytes_alone = wide_config(fields=BYTES)
    with_trunk = flops.useful(wide_config(), 0.0, 0.0, 256)
    tiers = flops.useful(bytes_alone, 0.0, 0.0, 256)
    assert tiers == {tier: with_trunk[tier] for tier in ("encoder", "decoder")}
    assert flops.inference(bytes_alone, 0.0, 0.0, 256) == tiers


def test_useful_never_exceeds_compiled():
    for trigger in ("none", "entropy", "every"):
        config = wide_config(trigger=trigger)
        rate = {"none": 0.0, "entropy": 0.25, "every": 15 / 16}[trigger]
        useful, compiled = flops.useful(config, 1 / 16, rate, 256), flops.compiled(config, 256)
        for tier in useful:
            assert useful[tier] <= compiled[tier] * (1 + 1e-9), (trigger, tier)
