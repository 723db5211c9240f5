"""The audit passes every causal model, and names the stage of every planted leak.

Covered, exactly:
- forward checks: the whole product of patchifier x trigger x pooling x
  last_state x (decoder injection, 0 or 1 layers) x (encoder of 0 or 1 layers),
  2352 models joined of separately compiled stages (`pieces`);
- forward checks, joined likewise, of BLT's options: max_query pooling x
  patchifiers of entropies x commit_bos x (entropy head, entropy model, both) x
  how often inputs are added x n-grams x the trunk's last norm x decoder
  injection; and of models without a trunk;
- gradient checks, joined likewise: the product of pooling x last_state x
  decoder x encoder, on layouts of several patchifiers and triggers (decisions
  carry no gradient), and without a trunk;
- `audit` itself, one compiled program forward and one backward, as it runs
  before training: every patchifier, bfloat16, both remats, grouped and full KV
  heads, controllers that move, chunked staircases, an unstopped entropy head
  and none, BLT's options together, no trunk.
"""

import dataclasses
import functools
import itertools
import json
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scratchpatch import config as config_lib
from scratchpatch.errors import UserError
from scratchpatch.evaluation import audit
from scratchpatch.kernels import staircase, staircase_xla, window
from scratchpatch.model import ngrams
from scratchpatch.model import weights as weights_lib
from scratchpatch.model.decoder import Decoder
from scratchpatch.model.encoder import Encoder
from scratchpatch.model.entropy_head import EntropyHead
from scratchpatch.model.pooling import Pooling
from scratchpatch.model.trunk import Trunk
from scratchpatch.parallel import mesh as mesh_lib
from scratchpatch.patching import budget, controller, patchifiers, slots, triggers
from scratchpatch.vocabulary import BOS
from tests import tiny
from tests.evaluation.pieces import TRUNKLESS, Model, random_weights

POOLINGS = tuple(itertools.product(config_lib.POOLINGS, (False, True)))
DECODERS = (("add", 0), ("add", 1), ("cross_attention", 1))
HEADLESS, SEPARATE = {"model.entropy_head.weight": 0.0}, {"model.entropy_model.layers": 1}
ENTROPIES = {"head": {}, "model": HEADLESS | SEPARATE, "head and model": SEPARATE}


def parts(pooling, decoder, encoder_layers: int) -> dict:
    return {
        "model.pooling.kind": pooling[0],
        "model.pooling.last_state": pooling[1],
        "model.decoder.injection": decoder[0],
        "model.decoder.layers": decoder[1],
        "model.encoder.layers": encoder_layers,
    }


def decisions(patchifier: str, trigger: str) -> dict:
    return {"patching.kind": patchifier, "trigger.kind": trigger}


def report_of(model: Model, gradients: bool = False) -> audit.AuditReport:
    reached = functools.partial(audit.reached, model.config, lambda weights: functools.partial(model, weights))
    return audit.Auditor(model.config, model, reached if gradients else None).report(model.weights)


@pytest.mark.parametrize("encoder_layers", (0, 1))
@pytest.mark.parametrize("patchifier", config_lib.PATCHIFIERS)
def test_every_combination_passes(patchifier, encoder_layers):
    for trigger, pooling, decoder in itertools.product(config_lib.TRIGGERS, POOLINGS, DECODERS):
        fields = decisions(patchifier, trigger) | parts(pooling, decoder, encoder_layers)
        report = report_of(Model(fields))
        assert report.ok, f"{fields}: {report.text()}"
        assert report.checked == {"prefixes": 23, "documents": 24, "rows": 8}


@pytest.mark.parametrize("decoder", DECODERS)
def test_gradients_of_every_combination_pass(decoder):
    layouts = itertools.cycle(itertools.product(config_lib.PATCHIFIERS[1:], config_lib.TRIGGERS[1:]))
    for pooling, encoder_layers in itertools.product(POOLINGS, (0, 1)):
        fields = decisions(*next(layouts)) | parts(pooling, decoder, encoder_layers)
        report = report_of(Model(fields), gradients=True)
        assert report.ok, f"{fields}: {report.text()}"
        assert report.checked["gradients"] == 6


@pytest.mark.parametrize("entropies", ENTROPIES)
@pytest.mark.parametrize("commit_bos", (False, True))
def test_every_combination_of_blts_options_passes(commit_bos, entropies):
    options = config_lib.ENTROPY_PATCHIFIERS, (1, 2), ((), (2, 3)), (True, False), DECODERS[1:]
    for patchifier, residual, sizes, final_norm, decoder in itertools.product(*options):
        fields = decisions(patchifier, "entropy") | parts(("max_query", False), decoder, 1) | ENTROPIES[entropies]
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


WHOLE = {
    "controller": {"data.window": 200, "trigger.gain": 0.02, "trigger.threshold": 5.0, "training.remat": "dots"},
    "controllers in bfloat16": {
        "data.window": 200,
        "training.dtype": "bfloat16",
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
    "bytes": {
        "patching.kind": "byte",
        "trigger.kind": "none",
        "model.trunk.kv_heads": 0,
        "model.encoder.layers": 0,
        "model.entropy_head.layers": 0,
        "model.decoder.layers": 0,
    },
    "chunks": {"patching.kind": "whitespace", "trigger.kind": "every", "model.pooling.kind": "mean"},
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
    "no trunk": TRUNKLESS | {"model.encoder.ngrams": (3, 4), "model.encoder.ngram_rows": 50, "training.remat": "dots"},
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_models_pass(monkeypatch, name):
    monkeypatch.setattr(staircase_xla, "CHUNK", 16)
    config = tiny.config(WHOLE[name])
    report = audit.audit(config, random_weights(weights_lib.abstract(config)[1]))
    assert report.ok, report.text()
    assert set(report.checked) == {"prefixes", "documents", "rows", "gradients"}
    assert json.loads(json.dumps(report.as_dict()))["ok"]
    assert "passed" in report.summary()


# Planted leaks. Each replaces one function of the package, and takes the
# place of the original as `mock.patch` puts it there.


def pool_whole_patches(self, h_BLd, s, original=Pooling.__call__):
    """A scratchpad pools its patch up to the byte that will close it."""
    commits, scratchpads = config_lib.slots(Model(FIXED).config)
    closing_BN = slots.gather(s.end_BN[:, :commits], jnp.minimum(s.commits_BN, commits - 1))
    closed_BN = s.commits_BN < s.valid_BN[:, :commits].sum(axis=1, keepdims=True)
    leaks_BN = closed_BN & (jnp.arange(commits + scratchpads) >= commits)
    return original(self, h_BLd, dataclasses.replace(s, end_BN=jnp.where(leaks_BN, closing_BN, s.end_BN)))


def broadcast_without_shift(commit_BL, scratchpad_BL, start_BL, commits, scratchpads, original=slots.build):
    """Bytes read the trunk's output for the patch that they are in."""
    s = original(commit_BL, scratchpad_BL, start_BL, commits, scratchpads)
    before_BL = jnp.cumsum(commit_BL, axis=1) - commit_BL
    closed_BL = before_BL < commit_BL.sum(axis=1, keepdims=True)
    return dataclasses.replace(s, context_BL=jnp.where(closed_BL, before_BL, s.context_BL))


def top_k(score_BL, k: int = 6):
    return score_BL >= jnp.sort(score_BL, axis=1)[:, -k, None]


def trigger_top_k(trigger, tokens_BL, start_BL, patch_start_BL, eligible_BL, entropy_BL, threshold):
    return eligible_BL & top_k(entropy_BL), jnp.zeros(len(tokens_BL))


def patchifier_top_k(patching, tokens_BL, start_BL, valid_BL, entropy_BL, threshold):
    return valid_BL & top_k(entropy_BL), jnp.zeros(len(tokens_BL))


def close_last_patch(patching, tokens_BL, *args, original=patchifiers.request):
    """A patch ends where its document does."""
    request_BL, threshold_B = original(patching, tokens_BL, *args)
    return request_BL | (jnp.pad(tokens_BL[:, 1:], ((0, 0), (0, 1))) == BOS), threshold_B


def subtract_batch_mean(self, h_BLd, start_BL, original=EntropyHead.__call__):
    logits_BLV = original(self, h_BLd, start_BL)
    return logits_BLV - logits_BLV.mean(axis=0)


def flatten_batch(self, h_BLd, start_BL, original=EntropyHead.__call__):
    """All rows as one sequence, each document's start still counted from its own row."""
    logits_1TV = original(self, h_BLd.reshape(1, -1, h_BLd.shape[-1]), start_BL.reshape(1, -1))
    return logits_1TV.reshape(*start_BL.shape, -1)


def one_byte_ahead(q, k, v, start_BL, *args, original=window.attend):
    """Position n reads up to n + 1."""
    ahead = lambda x: jnp.concatenate([x[:, 1:], x[:, -1:]], axis=1)  # noqa: E731
    return original(q, ahead(k), ahead(v), start_BL, *args)


def across_documents(q, k, v, start_BL, *args, original=window.attend):
    return original(q, k, v, jnp.zeros_like(start_BL), *args)


def all_commits_of_the_row(q, k, v, first_BN, *args, original=staircase.attend):
    return original(q, k, v, jnp.zeros_like(first_BN), *args)


def share_scratchpads(request_BL, start_BL, capacity, original=budget.grant):
    """One budget of scratchpads for a row: what one document saves, the next may spend."""
    return original(request_BL, jnp.zeros_like(start_BL) if capacity == 0.25 else start_BL, capacity)


def carry_threshold_on(score_BL, eligible_BL, start_BL, *args, original=controller.fire):
    """A document goes on with the threshold of the one before it."""
    return original(score_BL, eligible_BL, jnp.zeros_like(start_BL), *args)


def ngram_one_ahead(tokens_BL, *args, original=ngrams.rows):
    """An n-gram ends with the byte after its position."""
    return original(jnp.concatenate([tokens_BL[:, 1:], tokens_BL[:, -1:]], axis=1), *args)


def ngram_across_documents(tokens_BL, start_BL, *args, original=ngrams.rows):
    return original(tokens_BL, jnp.zeros_like(start_BL), *args)


ENTROPY = decisions("entropy", "entropy") | {"model.pooling.last_state": False}
FIXED = decisions("fixed", "entropy")
TIGHT = FIXED | {"trigger.capacity": 0.25}
CARRIED = FIXED | {"data.window": 160, "trigger.gain": 0.1}
NGRAMS = FIXED | {"model.encoder.ngrams": (2, 3)}
# The head is there too, and innocent.
JUDGED = decisions("entropy_and_jump", "entropy") | SEPARATE

# name: (fields, piece, module, function, leak, check that finds it first, stage)
LEAKS = {
    "pooling over the whole patch": (FIXED, "pooling", Pooling, "__call__", pool_whole_patches, "suffix", "pooling"),
    "broadcast without shift": (FIXED, "decide", slots, "build", broadcast_without_shift, "suffix", "decoder"),
    "top-k trigger": (FIXED, "decide", triggers, "request", trigger_top_k, "suffix", "trigger"),
    "top-k patchifier": (ENTROPY, "decide", patchifiers, "request", patchifier_top_k, "suffix", "patchifier"),
    "commit at the last byte": (FIXED, "decide", patchifiers, "request", close_last_patch, "suffix", "patchifier"),
    "batch mean": (FIXED, "entropy_head", EntropyHead, "__call__", subtract_batch_mean, "suffix", "entropy head"),
    "flat batch": (FIXED, "entropy_head", EntropyHead, "__call__", flatten_batch, "suffix", "entropy head"),
    "encoder one ahead": (FIXED, "encoder", window, "attend", one_byte_ahead, "suffix", "encoder"),
    "decoder one ahead": (FIXED, "decoder", window, "attend", one_byte_ahead, "suffix", "decoder"),
    "encoder across BOS": (FIXED, "encoder", window, "attend", across_documents, "document", "encoder"),
    "decoder across BOS": (FIXED, "decoder", window, "attend", across_documents, "document", "decoder"),
    "trunk across BOS": (FIXED, "trunk", staircase, "attend", all_commits_of_the_row, "document", "trunk"),
    "shared capacity": (TIGHT, "decide", budget, "grant", share_scratchpads, "document", "trigger"),
    "threshold across BOS": (CARRIED, "decide", controller, "fire", carry_threshold_on, "document", "trigger"),
    "n-gram one ahead": (NGRAMS, "encoder", ngrams, "rows", ngram_one_ahead, "suffix", "encoder"),
    "n-gram across BOS": (NGRAMS, "encoder", ngrams, "rows", ngram_across_documents, "document", "encoder"),
    "entropy model one ahead": (JUDGED, "entropy_model", window, "attend", one_byte_ahead, "suffix", "entropy model"),
    "entropy model across BOS": (JUDGED, "entropy_model", window, "attend", across_documents, "document", "entropy model"),
    "entropy model in the head's place": (
        JUDGED | HEADLESS, "entropy_model", window, "attend", one_byte_ahead, "suffix", "entropy model"
    ),
    "decoder one ahead, no trunk": (TRUNKLESS, "decoder", window, "attend", one_byte_ahead, "suffix", "decoder"),
}


def planted(name: str) -> tuple[Model, audit.Auditor, audit.AuditReport]:
    fields, piece, module, function, leak, _, _ = LEAKS[name]
    # A plain function, so that it binds as the method it replaces.
    model = Model(fields, {piece: mock.patch.object(module, function, lambda *args: leak(*args))})
    auditor = audit.Auditor(model.config, model, None)
    return model, auditor, auditor.report(model.weights)


@pytest.mark.parametrize("name", LEAKS)
def test_a_planted_leak_is_named(name):
    *_, check, stage = LEAKS[name]
    _, auditor, report = planted(name)
    assert not report.ok
    first = report.findings[0]
    assert (first.check, first.stage) == (check, stage), report.text()
    assert {f.stage for f in report.findings} == {stage}, report.text()
    assert f"the {stage} leaks at position {first.position}" in report.summary()
    found = json.loads(json.dumps(report.as_dict()))
    assert not found["ok"] and found["findings"][0]["stage"] == stage
    if check == "document":
        # The first document has none before it that could leak into it.
        assert first.position >= auditor.starts[1]
    else:
        assert 0 <= first.position < auditor.length - 1


def test_the_position_is_where_the_leak_is():
    _, auditor, report = planted("pooling over the whole patch")
    row = int(report.findings[0].detail.split()[1].rstrip(";"))
    start = max(s for s in auditor.starts if s <= report.findings[0].position)
    assert auditor.tokens[row, start] == BOS or start == 0
    assert (report.findings[0].position - start) % 4 != 3  # a scratchpad, not a commit
    _, auditor, report = planted("encoder one ahead")
    assert report.findings[0].position == 0


def test_rows_of_a_batch_are_told_apart():
    for name in ("batch mean", "flat batch"):
        *_, report = planted(name)
        assert {f.check for f in report.findings} == {"suffix", "document", "row"}, report.text()


@jax.custom_vjp
def leak_rows(x):
    return x


leak_rows.defvjp(lambda x: (x, None), lambda _, g: (g + jnp.roll(g, 1, axis=0),))


@jax.custom_vjp
def leak_positions(x):
    return x


# The gradient of one position arrives at the one before it: another document's, behind a BOS.
leak_positions.defvjp(lambda x: (x, None), lambda _, g: (g + jnp.roll(g, 1, axis=1),))
# name: (piece, which is the stage; module; what happens to its states)
BACKWARD = {
    "rows of the encoder": ("encoder", Encoder, leak_rows),
    "rows of the trunk": ("trunk", Trunk, leak_rows),
    "later bytes of the decoder": ("decoder", Decoder, leak_positions),
}


@pytest.mark.parametrize("name", BACKWARD)
def test_a_leak_of_the_backward_pass_alone_is_named(name):
    stage, module, leak = BACKWARD[name]
    original = module.__call__

    def leaky(self, x, *args):
        # Of the encoder, whose input is ids, the output.
        return leak(original(self, x, *args)) if module is Encoder else original(self, leak(x), *args)

    fields = decisions("fixed", "every")
    report = report_of(Model(fields, {stage: mock.patch.object(module, "__call__", leaky)}), gradients=True)
    assert {f.check for f in report.findings} == {"gradient"}, report.text()
    assert {f.stage for f in report.findings} == {stage}, report.text()
    assert "its gradient reaches row" in report.summary()


def test_a_leak_built_from_outside_is_named():
    config = tiny.config({"patching.kind": "whitespace"})
    definition, abstract = weights_lib.abstract(config)

    def build(weights):
        model = weights_lib.merge(definition, weights)
        return lambda tokens_BL, probe_BLd=None: peek(model(tokens_BL, probe_BLd))

    def peek(output):
        ahead_BLV = jnp.roll(output.logits_BLV, -2, axis=1)
        return dataclasses.replace(output, logits_BLV=output.logits_BLV + 1e-3 * ahead_BLV)

    report = audit.audit(config, random_weights(abstract), build=build)
    assert {(f.check, f.stage) for f in report.findings} >= {("suffix", "decoder"), ("gradient", "decoder")}
    assert {f.stage for f in report.findings} == {"decoder"}


def test_weights_spread_over_a_mesh_are_audited_where_they_are():
    config = tiny.config({"mesh.fsdp": 4, "mesh.tensor": 2})
    spread = jax.device_put(tiny.weights(tiny.config()), weights_lib.shardings(config, mesh_lib.make(config)))
    assert audit.audit(config, spread).ok


def test_an_audit_that_can_see_nothing_says_so():
    silent = lambda self, h_BLd, *_: jnp.zeros((*h_BLd.shape[:2], 264))  # noqa: E731
    model = Model(FIXED, {"decoder": mock.patch.object(Decoder, "__call__", silent)})
    with pytest.raises(UserError, match="blind"):
        report_of(model)


def test_a_bad_config_is_refused():
    config = config_lib.default()
    config.patching.patch_bytes = 0
    with pytest.raises(UserError, match="patching.patch_bytes = 0"):
        audit.audit_config(config)


@pytest.mark.parametrize("kind", config_lib.ENTROPY_PATCHIFIERS)
def test_thresholds_are_laid_amid_the_entropies(kind):
    """The configs' own would ask nowhere, so that only the longest patches would end."""
    fields = {"patching.kind": kind, "patching.capacity": 1.0, "patching.threshold": 9.0, "trigger.kind": "none"}
    config = tiny.config(fields | {"patching.max_patch_bytes": 64})
    auditor = audit.Auditor(config, tiny.forward(config), None)
    assert auditor.report(tiny.weights(config)).ok
    assert 0.1 < auditor.base["patchifier"][0].mean() < 0.6


def test_a_stage_says_nothing_where_the_model_lacks_it():
    says = {}
    for name, fields in (ENTROPIES | {"none": HEADLESS, "no trunk": TRUNKLESS}).items():
        model = Model(decisions("fixed", "stride") | fields)
        auditor = audit.Auditor(model.config, model, None)
        assert auditor.report(model.weights).ok
        says[name] = {stage: len(arrays) for stage, arrays in auditor.base.items()}
    one = dict.fromkeys(audit.STAGES, 1)
    assert says == {
        "head": one | {"entropy head": 2, "entropy model": 0},
        "model": one | {"entropy head": 0},
        "head and model": one,
        "none": one | {"entropy head": 0, "entropy model": 0},
        "no trunk": dict.fromkeys(audit.STAGES, 0) | {"encoder": 1, "decoder": 1},
    }


def test_the_audited_text_holds_what_it_must():
    auditor = audit.Auditor(tiny.config(), None, None)
    assert (np.sort(np.argwhere(auditor.tokens == BOS)[:, 1]) == np.repeat([0, *auditor.starts[1:]], [4, 8, 8])).all()
    assert auditor.length >= 3 * 5 and auditor.length >= 2 * 12
    fields = {"data.window": 512, "model.entropy_model.layers": 1, "model.entropy_model.window": 100}
    assert audit.Auditor(tiny.config(fields), None, None).length >= 2 * 100
    carried = audit.Auditor(tiny.config({"data.window": 512, "trigger.gain": 0.1}), None, None)
    assert carried.starts[2] - carried.starts[1] > controller.CHUNK
