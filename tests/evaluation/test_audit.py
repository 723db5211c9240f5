"""The audit passes every causal model (`test_audit_leaks`: and names the stage of every planted leak).

Covered, exactly:
- forward checks of models joined of separately compiled stages (`pieces`): every pair among patchifier, trigger,
  pooling, last_state, decoder (injection, layers, scope), encoder (0 or 1 layers), and attention or states in encoder,
  trunk and decoder. A stage sees of the others the arrays between them alone, and what decides is one stage of all
  patchifiers and triggers, so that a pair of options shows what two stages leak together. Learned patches are smoothed,
  and have a projected residual where context is added. Not covered is what three options would leak together;
- forward checks, joined likewise, of BLT's options: with the entropy head, the entropy model and both every triple
  among patchifier of entropies, commit_bos, how often inputs are added, n-grams, the trunk's last norm and decoder
  injection, under max_query pooling; and of all models without a trunk;
- gradient checks, joined likewise: every pair among pooling, last_state, decoder, encoder and their kinds, each on the
  layout of one of the patchifiers and triggers (decisions carry no gradient), and without a trunk;
- `audit` itself, one compiled program forward and one backward, as it runs before training: all patchifiers but random,
  bfloat16, both remats, grouped and full KV heads, controllers that move, staircases in chunks and in blocks, an
  unstopped entropy head and none, BLT's options together, no trunk.
"""

import functools
import itertools
import json
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scratchpatch import config as config_lib, config_fields
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.errors import UserError
from scratchpatch.evaluation import audit
from scratchpatch.kernels import blocked, xla
from scratchpatch.model import weights as weights_lib
from scratchpatch.model.decoder import Decoder
from scratchpatch.patching import controller
from scratchpatch.vocabulary import BYTES
from tests import tiny, tokens
from tests.evaluation.pieces import HEADLESS, SEPARATE, TRUNKLESS, Model, decisions, random_weights, report_of

# The oracle has a test of its own.
TRIGGERS = tuple(kind for kind in config_fields.TRIGGERS if kind != "oracle")
DECODERS = (
    ("add", 0, "document"),
    ("add", 1, "document"),
    ("add", 1, "patch"),
    ("at_slot", 1, "document"),
    ("cross_attention", 1, "document"),
    ("cross_attention", 1, "patch"),
)
BLT_DECODERS = tuple(decoder for decoder in DECODERS if decoder[1:] == (1, "document") and decoder[0] != "at_slot")
ENTROPIES = {"head": {}, "model": HEADLESS | SEPARATE, "head and model": SEPARATE}


def covering(strength: int, *options) -> list[tuple]:
    """Rows of the options' product, of which every combination of values of any `strength` options is in some row."""
    places = range(len(options))
    missing = {
        frozenset(zip(at, values, strict=True))
        for at in itertools.combinations(places, strength)
        for values in itertools.product(*(options[place] for place in at))
    }
    rows = []

    def of(row: dict) -> set[frozenset]:
        return {frozenset(some) for some in itertools.combinations(row.items(), strength)}

    def gain(row: dict) -> int:
        return len(of(row) & missing)

    while missing:
        # Begun by a combination that no row has, and filled with what most others ask for.
        row = dict(min(missing, key=lambda some: sorted(map(repr, some))))
        for place in places:
            if place not in row:
                row = max(({**row, place: value} for value in options[place]), key=gain)
        rows.append(tuple(row[place] for place in places))
        missing -= of(row)
    return rows


def fields_of(decoder, **values) -> dict:
    """Fields of a config. values: of fields of the model, in place of the dot __."""
    injection, layers, scope = decoder
    return {
        "model.decoder.injection": injection,
        "model.decoder.layers": layers,
        "model.decoder.scope": scope,
        **{f"model.{name.replace('__', '.')}": value for name, value in values.items()},
    }


def options_of(patchifier: str, trigger: str, decoder, pooling, last_state, layers, *kinds) -> dict:
    """Fields of a row of options."""
    fields = fields_of(decoder, pooling__kind=pooling, pooling__last_state=last_state, encoder__layers=layers)
    fields |= decisions(patchifier, trigger)
    fields |= dict(zip(("model.encoder.kind", "model.trunk.kind", "model.decoder.kind"), kinds, strict=True))
    if fields["model.trunk.kind"] == "ssm":
        fields["model.trunk.kv_heads"] = 0
    if patchifier == "learned":
        # A router compares what an encoder says.
        fields |= {"model.encoder.layers": 1, "model.smoothing": True}
        fields["model.decoder.residual"] = "projected" if decoder[0] == "add" else "identity"
    return fields


# Those of a model's stages beside what decides.
_LOCAL, _TRUNK = config_fields.LOCAL_KINDS, ("transformer", "ssm")
STAGES = DECODERS, config_fields.POOLINGS, (False, True), (0, 1), _LOCAL, _TRUNK, _LOCAL


@functools.cache
def pairs_of_all() -> list[tuple]:
    return covering(2, config_fields.PATCHIFIERS, TRIGGERS, *STAGES)


# One test per patchifier, so that what its models share is compiled in one process.
@pytest.mark.parametrize("kind", config_fields.PATCHIFIERS)
def test_every_pair_of_options_passes(kind):
    for row in pairs_of_all():
        if row[0] != kind:
            continue
        fields = options_of(*row)
        report = report_of(Model(fields))
        assert report.ok, f"{fields}: {report.text()}"
        assert report.checked == {"prefixes": 23, "documents": 24, "rows": 8}


@pytest.mark.parametrize("decoder", DECODERS)
def test_gradients_of_every_pair_of_options_pass(decoder):
    layouts = zip(itertools.cycle(config_fields.PATCHIFIERS[1:]), itertools.cycle(TRIGGERS[1:]))
    for row in covering(2, *STAGES):
        layout = next(layouts)
        if row[0] != decoder:
            continue
        fields = options_of(*layout, *row)
        report = report_of(Model(fields), gradients=True)
        assert report.ok, f"{fields}: {report.text()}"
        assert report.checked["gradients"] == 6


@pytest.mark.parametrize("entropies", ENTROPIES)
def test_every_triple_of_blts_options_passes(entropies):
    options = config_fields.ENTROPY_PATCHIFIERS, (False, True), (1, 2), ((), (2, 3)), (True, False), BLT_DECODERS
    for patchifier, commit_bos, residual, sizes, final_norm, decoder in covering(3, *options):
        fields = fields_of(decoder, pooling__kind="max_query", pooling__last_state=False, encoder__layers=1)
        fields |= decisions(patchifier, "entropy") | ENTROPIES[entropies]
        fields |= {
            "model.cross_residual": residual,
            "model.encoder.ngrams": sizes,
            "model.trunk.final_norm": final_norm,
            "patching.commit_bos": commit_bos,
            # A BOS of its own is more than a smaller budget can pay for.
            "patching.capacity": 1.0 if commit_bos else 0.5,
        }
        report = report_of(Model(fields))
        assert report.ok, f"{fields}: {report.text()}"


@pytest.mark.parametrize("layers", ((0, 0), (0, 1), (1, 0), (1, 1)), ids=lambda n: f"{n[0]}-{n[1]}")
def test_models_without_a_trunk_pass(layers):
    encoder_layers, decoder_layers = layers
    for sizes in ((), (2, 3)):
        fields = TRUNKLESS | {
            "model.encoder.layers": encoder_layers,
            "model.decoder.layers": decoder_layers,
            "model.encoder.ngrams": sizes,
        }
        report = report_of(Model(fields), gradients=True)
        assert report.ok, f"{fields}: {report.text()}"
        assert report.checked == {"prefixes": 23, "documents": 24, "rows": 8, "gradients": 6}


def test_the_oracle_is_refused_because_it_leaks():
    fields = decisions("fixed", "oracle") | {"model.benefit.horizon": 2}
    report = report_of(Model(fields))
    assert {finding.check for finding in report.findings} == {"suffix"}
    assert report.findings[0].stage == "trigger"
    with pytest.raises(UserError, match="reads the bytes that follow, so it cannot pass the causality audit: use"):
        audit.audit_config(tiny.config(fields))


WHOLE = {
    "controllers in bfloat16": {
        "data.window": 200,
        "training.dtype": "bfloat16",
        "training.remat": "dots",
        "patching.kind": "entropy_jump",
        "patching.gain": 0.02,
        "trigger.kind": "entropy_jump",
        "trigger.gain": 0.02,
        "model.entropy_head.stop_gradient": False,
    },
    "bfloat16": {
        "training.dtype": "bfloat16",
        "training.remat": "full",
        "patching.kind": "entropy",
        "trigger.kind": "random",
        "model.decoder.injection": "cross_attention",
    },
    # No file is read: the ids of a vocabulary of so many tokens.
    "tokens": tokens.FIELDS | {"data.tokenizer": "any.json", "model.trunk.kv_heads": 0},
    "chunks": {"patching.kind": "whitespace", "trigger.kind": "every", "model.pooling.kind": "mean"},
    "blocks": {
        "kernels.staircase": "blocked",
        "kernels.window": "blocked",
        "patching.patch_bytes": 2,
        "trigger.kind": "every",
        "model.encoder.window": 30,
    },
    "no entropy head": {
        "trigger.kind": "stride",
        "model.entropy_head.weight": 0.0,
        "model.pooling.kind": "last",
        "model.pooling.last_state": False,
    },
    "blt": {
        "training.dtype": "bfloat16",
        "patching.kind": "entropy_and_jump",
        "patching.commit_bos": True,
        "patching.capacity": 1.0,
        "trigger.kind": "entropy",
        "model.encoder.ngrams": (3, 4),
        "model.encoder.ngram_rows": 50,
        "model.encoder.ngram_functions": 2,
        "model.norm_eps": 1e-5,
        "model.cross_residual": 2,
        "model.pooling.kind": "max_query",
        "model.pooling.last_state": False,
        "model.trunk.final_norm": False,
        "model.decoder.injection": "cross_attention",
        "model.entropy_head.weight": 0.0,
        "model.entropy_model.layers": 2,
        "model.entropy_model.d_byte": 16,
        "model.entropy_model.heads": 2,
        "model.entropy_model.window": 12,
    },
    "learned, whole characters": {
        "training.dtype": "bfloat16",
        "patching.whole_characters": True,
        "trigger.kind": "learned",
        "trigger.whole_characters": True,
    },
    "learned patches": {
        "training.dtype": "bfloat16",
        "patching.kind": "learned",
        "trigger.kind": "stride",
        "model.smoothing": True,
        "model.pooling.kind": "last",
        "model.decoder.residual": "projected",
    },
    "states": {
        "training.dtype": "bfloat16",
        "training.remat": "ffn",
        "patching.kind": "whitespace",
        "trigger.kind": "stride",
        "model.encoder.kind": "ssm",
        "model.trunk.kind": "ssm",
        "model.trunk.kv_heads": 0,
        "model.decoder.kind": "ssm",
        "model.ssm.selective": True,
    },
    "no trunk": TRUNKLESS | {"model.encoder.ngrams": (3, 4), "model.encoder.ngram_rows": 50, "training.remat": "dots"},
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_models_pass(monkeypatch, name):
    monkeypatch.setattr(xla, "CHUNK", 16)
    monkeypatch.setattr(blocked, "_BLOCK", 16)
    config = tiny.config(WHOLE[name])
    report = audit.audit(config, random_weights(weights_lib.abstract(config)[1]))
    assert report.ok, report.text()
    assert set(report.checked) == {"prefixes", "documents", "rows", "gradients"}
    assert json.loads(json.dumps(report.as_dict()))["ok"]
    assert "passed" in report.summary()


def test_weights_spread_over_a_mesh_are_audited_where_they_are():
    config = tiny.config(WHOLE["no entropy head"] | {"mesh.fsdp": 4, "mesh.tensor": 2, "model.decoder.layers": 0})
    weights = random_weights(weights_lib.abstract(config)[1])
    spread = jax.device_put(weights, weights_lib.shardings(config, mesh_lib.make(config)))
    assert audit.audit(config, spread).ok


def test_an_audit_that_can_see_nothing_says_so():
    def silent(self, h_BLd, *_):
        return jnp.zeros((*h_BLd.shape[:2], BYTES.rows))

    model = Model(decisions("fixed", "entropy"), {"decoder": mock.patch.object(Decoder, "__call__", silent)})
    with pytest.raises(UserError, match="blind"):
        report_of(model)


def test_a_bad_config_is_refused():
    config = config_lib.default()
    config.patching.patch_bytes = 0
    with pytest.raises(UserError, match="patching.patch_bytes = 0"):
        audit.audit_config(config)


@pytest.mark.parametrize("kind", config_fields.ENTROPY_PATCHIFIERS)
def test_thresholds_are_laid_amid_the_entropies(kind):
    """The configs' own would ask nowhere, so that only the longest patches would end."""
    fields = {"patching.kind": kind, "patching.capacity": 1.0, "patching.threshold": 9.0, "trigger.kind": "none"}
    config = tiny.config(fields | {"patching.max_patch_bytes": 64})
    auditor = audit.Auditor(config, tiny.forward(config), None)
    assert auditor.report(tiny.weights(config)).ok
    assert 0.1 < auditor.base["patchifier"][0].mean() < 0.6


def test_a_stage_says_nothing_where_the_model_lacks_it():
    says = {}
    others = {"learned patches": {"patching.kind": "learned"}, "none": HEADLESS, "no trunk": TRUNKLESS}
    for name, fields in (ENTROPIES | others).items():
        model = Model(decisions("fixed", "stride") | fields)
        auditor = audit.Auditor(model.config, model, None)
        assert auditor.report(model.weights).ok
        says[name] = {stage: len(arrays) for stage, arrays in auditor.base.items()}
    one = dict.fromkeys(audit.STAGES, 1) | {"router": 0}
    assert says == {
        "head": one | {"entropy head": 2, "entropy model": 0},
        "model": one | {"entropy head": 0},
        "head and model": one,
        "learned patches": one | {"router": 1, "entropy head": 2, "entropy model": 0},
        "none": one | {"entropy head": 0, "entropy model": 0},
        "no trunk": dict.fromkeys(audit.STAGES, 0) | {"encoder": 1, "decoder": 1},
    }


def test_the_audited_text_holds_what_it_must():
    auditor = audit.Auditor(tiny.config(), None, None)
    bos_n = np.sort(np.argwhere(auditor.tokens == BYTES.bos)[:, 1])
    assert (bos_n == np.repeat([0, *auditor.starts[1:]], [4, 8, 8])).all()
    assert auditor.length >= 3 * 5 and auditor.length >= 2 * 12
    fields = {"data.window": 512, "model.entropy_model.layers": 1, "model.entropy_model.window": 100}
    assert audit.Auditor(tiny.config(fields), None, None).length >= 2 * 100
    carried = audit.Auditor(tiny.config({"data.window": 512, "trigger.gain": 0.1}), None, None)
    assert carried.starts[2] - carried.starts[1] > controller.CHUNK
