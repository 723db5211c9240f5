"""The loss, and the sums that every metric is made of. Legend: B rows, L byte positions, V vocabulary."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from scratchpatch import config as config_lib
from scratchpatch.model import benefit, weights as weights_lib
from scratchpatch.model.byte_lm import Output
from scratchpatch.model.heads import nats
from scratchpatch.patching.layout import Layout
from scratchpatch.patching.scores import LIKELY
from scratchpatch.vocabulary import Vocabulary


def count_targets(tokens_BM: jax.Array, vocabulary: Vocabulary) -> jax.Array:
    """Valid targets of rows of L + 1 tokens: bytes and ends of documents."""
    return (tokens_BM[:, 1:] != vocabulary.pad).sum()


def sums(config, output: Output, targets_BL, token_bytes_V=None, patch_bytes=None) -> dict[str, jax.Array]:
    """Scalars that add up over rows, parts and hosts. patch_bytes: of the ratio loss; None: as the config says.

    nats: of targets that are text; head_nats: the entropy head's; end_nats: of ends of documents; bytes, ends,
    positions: how many of each; tokens: targets that are text, of a model of tokens, whose bytes are those of
    `token_bytes_V`. documents: that have a position in the rows; patching_threshold, trigger_threshold: nats, those at
    which they ended, or left their row, PAD not counted. boundaries: that a router asked for; boundary_probability: of
    all positions; ratio: see `ratio`. encoder_keys and so on: see `keys`.
    """
    layout, rows = output.layout, output.layout.rows
    is_text_BL, is_end_BL = targets_BL < rows.vocabulary.bos, targets_BL == rows.vocabulary.bos
    loss_BL, end_BL = nats(output.logits_BLV, targets_BL, rows.vocabulary), rows.ends_BL()
    total = {
        "nats": jnp.where(is_text_BL, loss_BL, 0.0).sum(),
        "end_nats": jnp.where(is_end_BL, loss_BL, 0.0).sum(),
        "bytes": is_text_BL.sum(),
        "ends": is_end_BL.sum(),
        "positions": rows.valid_BL.sum(),
        "documents": end_BL.sum(),
        "patching_threshold": jnp.where(end_BL, layout.thresholds.patching, 0.0).sum(),
        "trigger_threshold": jnp.where(end_BL, layout.thresholds.trigger, 0.0).sum(),
        "commits": layout.commit_BL.sum(),
        "scratchpads": layout.scratchpad_BL.sum(),
        "suppressed_commits": layout.suppressed_commits_B.sum(),
        "suppressed_scratchpads": layout.suppressed_scratchpads_B.sum(),
    }
    if token_bytes_V is not None:
        # Whole numbers, so that the sum is exact in float32 up to 16 million bytes of a part.
        total |= {"tokens": total["bytes"], "bytes": jnp.where(is_text_BL, token_bytes_V[targets_BL], 0.0).sum()}
    total |= keys(config, layout)
    if output.head_logits_BLV is not None:
        head_BL = nats(output.head_logits_BLV, targets_BL, rows.vocabulary)
        total["head_nats"] = jnp.where(is_text_BL, head_BL, 0.0).sum()
        total["head_end_nats"] = jnp.where(is_end_BL, head_BL, 0.0).sum()
    if layout.boundary_BL is not None:
        total["boundaries"] = (rows.valid_BL & (layout.boundary_BL > LIKELY)).sum()
        total["boundary_probability"] = jnp.where(rows.valid_BL, layout.boundary_BL, 0.0).sum()
        total["ratio"] = ratio(layout, config.patching.patch_bytes if patch_bytes is None else patch_bytes)
    return {k: v.astype(jnp.float32) for k, v in total.items()}


def bytes_per_position(total: Mapping[str, float]) -> float:
    """Bytes of text that a position stands for in some sums, the end of a document counted as one byte: 1 of bytes."""
    targets = total.get("tokens", total["bytes"]) + total["ends"]
    return (total["bytes"] + total["ends"]) / targets if targets else 1.0


def ratio(layout: Layout, patch_bytes) -> jax.Array:
    """H-Net's ratio loss (arXiv 2507.07955) of each document, times its positions, added up.

    With N bytes per patch wanted, F the share of a document's positions at which the router asks, and G the mean of its
    probabilities: N / (N - 1) * ((1 - F) (1 - G) + (N - 1) F G), which is 1 where F = G = 1 / N. F has no gradient. The
    paper takes F and G over what lies on one device; here they are a document's own, in the part of it that lies in the
    row, so that the sum does not depend on how rows are spread over devices and parts.
    """
    rows, n = layout.rows, patch_bytes

    def by_document(x_BL):
        """Sums over the positions of each document, at its first position."""
        x_BL = jnp.where(rows.valid_BL, x_BL, 0.0).astype(jnp.float32)
        return jax.vmap(lambda x, start: jnp.zeros_like(x).at[start].add(x))(x_BL, rows.start_BL)

    count_BL = by_document(1.0)
    asked_BL, likely_BL = by_document(layout.boundary_BL > LIKELY), by_document(layout.boundary_BL)
    f_BL, g_BL = (x_BL / jnp.maximum(count_BL, 1.0) for x_BL in (asked_BL, likely_BL))
    return (count_BL * n / (n - 1) * ((1 - f_BL) * (1 - g_BL) + (n - 1) * f_BL * g_BL)).sum()


def keys(config, layout: Layout) -> dict[str, jax.Array]:
    """Scalars: what attention really reads, keys of other documents and of padding left out.

    encoder_keys, entropy_keys, decoder_keys: that the positions see in a layer of the encoder (or the entropy head),
    the entropy model, the decoder;
    trunk_keys: that the slots see, each itself among them; pool_keys: bytes that the slots pool.
    """
    m, rows, slots = config.model, layout.rows, layout.slots

    def of_bytes(window, rows=rows):
        return jnp.where(rows.valid_BL, jnp.minimum(rows.offset_BL + 1, window), 0).sum(dtype=jnp.float32)

    def of_slots(x_BN):
        return jnp.where(slots.valid_BN, x_BN, 0).sum(dtype=jnp.float32)

    return {
        "encoder_keys": of_bytes(m.encoder.window),
        "entropy_keys": of_bytes(m.entropy_model.window),
        "decoder_keys": of_bytes(m.decoder.window, layout.segments() if m.decoder.scope == "patch" else rows),
        "trunk_keys": of_slots(slots.seen_to_BN - slots.seen_from_BN + 1),
        "pool_keys": of_slots(jnp.minimum(slots.end_BN - slots.start_BN + 1, config_lib.patch_limit(config))),
    }


def loss(
    params, rest, definition, tokens_BM, targets: jax.Array, head_weight: float, entropy_BL=None, patch_bytes=None
):
    """This part's share of the loss: nats over the step's `targets`, never a mean of means.

    Args:
      params, rest, definition: of the model, see `model.weights`.
      tokens_BM: int32 [B, L + 1].
      targets: valid targets of the whole step, over parts and hosts.
      entropy_BL: float32 [B, L], nats, that decisions read; None: the model's own.
      patch_bytes: that learned patches are drawn to, above 1; None: as the config says.
    Returns:
      (loss, sums).
    """
    tokens_BL, targets_BL = tokens_BM[:, :-1], tokens_BM[:, 1:]
    model = weights_lib.merge(definition, {"params": params, **rest})
    output = model(tokens_BL, entropy_BL=entropy_BL)
    spelled = model.token_bytes
    token_bytes_V = None if spelled is None else spelled.get_value()
    total = sums(model.config, output, targets_BL, token_bytes_V, patch_bytes)
    value = total["nats"] + total["end_nats"]
    if "ratio" in total:
        value += model.config.patching.ratio_weight * total["ratio"]
    if model.measures:
        fixed = weights_lib.merge(definition, {"params": jax.lax.stop_gradient(params), **rest})
        squared_error, measured = benefit.learn(fixed, output, targets_BL)
        # Nats of other bytes are learnt as if they were squared nats of these: Adam undoes the scale.
        value, total = value + squared_error, total | measured
    if output.head_logits_BLV is not None:
        value += head_weight * (total["head_nats"] + total["head_end_nats"])
    return value / targets, total
