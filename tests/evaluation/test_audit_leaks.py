"""The audit names the stage of every planted leak, and its place."""

import dataclasses
import functools
import json
from unittest import mock

import jax
import jax.numpy as jnp
import pytest

from scratchpatch.evaluation import audit
from scratchpatch.kernels import attention
from scratchpatch.model import encoder, weights as weights_lib
from scratchpatch.model.decoder import Decoder
from scratchpatch.model.encoder import Encoder
from scratchpatch.model.heads import EntropyHead
from scratchpatch.model.pooling import Pooling
from scratchpatch.model.trunk import Trunk
from scratchpatch.patching import budget, controller, patchifiers, slots, triggers
from scratchpatch.patching.layout import Layout
from scratchpatch.vocabulary import BYTES
from tests import tiny
from tests.evaluation.pieces import HEADLESS, SEPARATE, TRUNKLESS, Model, decisions, random_weights, report_of

# Planted leaks. Each replaces one function of the package, and takes the
# place of the original as `mock.patch` puts it there.


def pool_whole_patches(self, h_BLd, layout, original=Pooling.__call__):
    """A scratchpad pools its patch up to the byte that will close it."""
    s = layout.slots
    closing_BN = slots.gather(s.end_BN[:, : s.commits], jnp.minimum(s.seen_to_BN, s.commits - 1))
    closed_BN = s.seen_to_BN < s.valid_BN[:, : s.commits].sum(axis=1, keepdims=True)
    leaks_BN = closed_BN & (jnp.arange(s.end_BN.shape[1]) >= s.commits)
    s = dataclasses.replace(s, end_BN=jnp.where(leaks_BN, closing_BN, s.end_BN))
    return original(self, h_BLd, dataclasses.replace(layout, slots=s))


def broadcast_without_shift(commit_BL, *args, original=slots.build):
    """Bytes read the trunk's output for the patch that they are in."""
    s = original(commit_BL, *args)
    before_BL = jnp.cumsum(commit_BL, axis=1) - commit_BL
    closed_BL = before_BL < commit_BL.sum(axis=1, keepdims=True)
    return dataclasses.replace(s, context_BL=jnp.where(closed_BL, before_BL, s.context_BL))


def top_k(score_BL, k: int = 6):
    return score_BL >= jnp.sort(score_BL, axis=1)[:, -k, None]


def trigger_top_k(trigger, rows, patch_start_BL, eligible_BL, signals, threshold):
    return eligible_BL & top_k(signals.entropy_BL), jnp.zeros(eligible_BL.shape)


def patchifier_top_k(patching, rows, signals, threshold):
    return rows.valid_BL & top_k(signals.entropy_BL), jnp.zeros(rows.valid_BL.shape)


def close_last_patch(patching, rows, *args, original=patchifiers.request):
    """A patch ends where its document does."""
    request_BL, threshold_BL = original(patching, rows, *args)
    return request_BL | (jnp.pad(rows.tokens_BL[:, 1:], ((0, 0), (0, 1))) == BYTES.bos), threshold_BL


def subtract_batch_mean(self, h_BLd, rows, original=EntropyHead.__call__):
    logits_BLV = original(self, h_BLd, rows)
    return logits_BLV - logits_BLV.mean(axis=0)


def flatten_batch(self, h_BLd, rows, original=EntropyHead.__call__):
    """All rows as one sequence, each document's start still counted from its own row."""
    n_L = jnp.arange(h_BLd.shape[0] * h_BLd.shape[1])
    flat = jax.tree.map(lambda x: x.reshape(1, -1), rows)
    flat = dataclasses.replace(flat, offset_BL=n_L - flat.start_BL)
    logits_1TV = original(self, h_BLd.reshape(1, -1, h_BLd.shape[-1]), flat)
    return logits_1TV.reshape(*rows.start_BL.shape, -1)


def one_byte_ahead(q, k, v, start_BL, *args, original=attention.window):
    """Position n reads up to n + 1."""
    k, v = (jnp.concatenate([x[:, 1:], x[:, -1:]], axis=1) for x in (k, v))
    return original(q, k, v, start_BL, *args)


def across_documents(q, k, v, start_BL, *args, original=attention.window):
    return original(q, k, v, jnp.zeros_like(start_BL), *args)


def all_commits_of_the_row(q, k, v, begin_BN, *args, original=attention.staircase):
    return original(q, k, v, jnp.zeros_like(begin_BN), *args)


def one_document(rows):
    """The rows as if no document started inside them."""
    n_BL = jnp.broadcast_to(jnp.arange(rows.start_BL.shape[1]), rows.start_BL.shape)
    return dataclasses.replace(rows, start_BL=jnp.zeros_like(rows.start_BL), offset_BL=n_BL)


def one_segment(self):
    """A decoder's scope goes on into the next document."""
    rows = one_document(self.rows)
    start_BL = jnp.maximum(rows.latest(self.commit_BL), 0)
    return dataclasses.replace(rows, start_BL=start_BL, offset_BL=rows.offset_BL - start_BL)


def share_scratchpads(request_BL, rows, capacity, original=budget.grant):
    """One budget of scratchpads for a row: what one document saves, the next may spend."""
    return original(request_BL, one_document(rows) if capacity == 0.25 else rows, capacity)


def carry_threshold_on(score_BL, eligible_BL, rows, *args, original=controller.fire):
    """A document goes on with the threshold of the one before it."""
    return original(score_BL, eligible_BL, one_document(rows), *args)


def ngram_one_ahead(rows, *args, original=encoder.table_rows):
    """An n-gram ends with the byte after its position."""
    ahead_BL = jnp.concatenate([rows.tokens_BL[:, 1:], rows.tokens_BL[:, -1:]], axis=1)
    return original(dataclasses.replace(rows, tokens_BL=ahead_BL), *args)


def ngram_across_documents(rows, *args, original=encoder.table_rows):
    return original(one_document(rows), *args)


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
    "encoder one ahead": (FIXED, "encoder", attention, "window", one_byte_ahead, "suffix", "encoder"),
    "decoder one ahead": (FIXED, "decoder", attention, "window", one_byte_ahead, "suffix", "decoder"),
    "encoder across BOS": (FIXED, "encoder", attention, "window", across_documents, "document", "encoder"),
    "decoder across BOS": (FIXED, "decoder", attention, "window", across_documents, "document", "decoder"),
    "decoder of one patch across BOS": (
        FIXED | {"model.decoder.scope": "patch"}, "decoder", Layout, "segments", one_segment, "document", "decoder"
    ),
    "at the slot's next byte": (
        FIXED | {"model.decoder.injection": "at_slot"}, "decide", slots, "build", broadcast_without_shift, "suffix",
        "decoder",
    ),
    "trunk across BOS": (FIXED, "trunk", attention, "staircase", all_commits_of_the_row, "document", "trunk"),
    "shared capacity": (TIGHT, "decide", budget, "grant", share_scratchpads, "document", "trigger"),
    "threshold across BOS": (CARRIED, "decide", controller, "fire", carry_threshold_on, "document", "trigger"),
    "n-gram one ahead": (NGRAMS, "encoder", encoder, "table_rows", ngram_one_ahead, "suffix", "encoder"),
    "n-gram across BOS": (NGRAMS, "encoder", encoder, "table_rows", ngram_across_documents, "document", "encoder"),
    "entropy model one ahead": (
        JUDGED, "entropy_model", attention, "window", one_byte_ahead, "suffix", "entropy model"
    ),
    "entropy model across BOS": (
        JUDGED, "entropy_model", attention, "window", across_documents, "document", "entropy model"
    ),
    "entropy model in the head's place": (
        JUDGED | HEADLESS, "entropy_model", attention, "window", one_byte_ahead, "suffix", "entropy model"
    ),
    "decoder one ahead, no trunk": (TRUNKLESS, "decoder", attention, "window", one_byte_ahead, "suffix", "decoder"),
}


@functools.cache
def planted(name: str) -> tuple[Model, audit.Auditor, audit.AuditReport]:
    fields, piece, module, function, leak, _, _ = LEAKS[name]
    # A plain function, so that it binds as the method it replaces.
    model = Model(fields, {piece: mock.patch.object(module, function, lambda *args: leak(*args))})
    auditor = audit.Auditor(model.config, model, None)
    return model, auditor, auditor.report(model.weights)


@pytest.mark.parametrize(("leak", "stage"), (("broadcast", "decoder"), ("gaussian", "pooling")))
def test_a_leak_that_a_config_asks_for_is_named(leak, stage):
    fields = {"model.pooling.kind": "gaussian", "model.leak": leak, "model.entropy_head.weight": 0.0}
    config = tiny.config(decisions("fixed", "none") | fields | {"data.window": 24, "model.trunk.layers": 1})
    report = audit.Auditor(config, tiny.forward(config), None).report(tiny.weights(config))
    assert {(f.check, f.stage) for f in report.findings} == {("suffix", stage)}, report.text()


@pytest.mark.parametrize("name", LEAKS)
def test_a_planted_leak_is_named(name):
    *_, check, stage = LEAKS[name]
    _, auditor, report = planted(name)
    assert not report.ok
    first = report.findings[0]
    assert (first.check, first.stage) == (check, stage), report.text()
    assert {f.stage for f in report.findings} == {stage}, report.text()
    assert f"the {stage} leaks at position {first.position}" in report.summary()
    document = json.loads(json.dumps(report.as_dict()))
    assert not document["ok"] and document["findings"][0]["stage"] == stage
    if check == "document":
        # The first document has none before it that could leak into it.
        assert first.position >= auditor.starts[1]
    else:
        assert 0 <= first.position < auditor.length - 1


def test_the_position_is_where_the_leak_is():
    _, auditor, report = planted("pooling over the whole patch")
    row = int(report.findings[0].detail.split()[1].rstrip(";"))
    start = max(s for s in auditor.starts if s <= report.findings[0].position)
    assert auditor.tokens[row, start] == BYTES.bos or start == 0
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


def test_a_leak_built_from_outside_is_named(monkeypatch):
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
