"""Weights of the Byte Latent Transformer in the layout of Hugging Face transformers.

What differs, and how it is made equal: RoPE there turns neighbouring channels,
here halves (query and key channels are reordered); byte b is id b + 4 there,
BOS 1, EOS 2 (rows are moved; the rows of ids 0, 1 and 3 keep their part in the
probability); layers are stacked; narrower feed-forward blocks are filled up
with zeros. BLT has no null context: it is zero, and stands only where a row
begins inside a document.

Facts of the format: transformers 5.24, `models/blt` (Apache-2.0); the paper is
arXiv 2412.09871.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from absl import logging

from scratchpatch import vocabulary
from scratchpatch.errors import UserError
from scratchpatch.interop import hf_config, tensors
from scratchpatch.model import weights as weights_lib
from scratchpatch.model.layers import ffn_width

_BYTE, _BOS, _EOS = 4, 1, 2
# Where their other special tokens go: rows of ours that are no target.
_SPECIAL = {vocabulary.PAD: 0, vocabulary.PAD + 1: _BOS, vocabulary.PAD + 2: 3}
_ATTENTION = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj"}
_FFN = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}

Read = Callable[[str], np.ndarray]


def read(folder: str | Path, window: int = 1024, max_patch_bytes: int = 128) -> tuple[Any, dict]:
    """(config, weights) of a Hugging Face BLT checkpoint folder (config.json, safetensors), its patcher included.

    It patches as the paper says: local layers see `local_attention_window_len`
    bytes, and documents in one row do not see each other. The memory of a pass
    grows with window * max_patch_bytes.

    Args:
      folder: of the checkpoint.
      window: bytes of a row (data.window).
      max_patch_bytes: longest patch, where the checkpoint sets no max_patch_length.

    Raises:
      UserError: no such checkpoint; fields that are not supported; tensors that
        are missing, extra, misshapen or not finite: all of them named. Nothing is loaded then.
    """
    hf = hf_config.read(folder, window, max_patch_bytes)
    stored = tensors.Tensors(folder)
    bad = tensors.problems(_wanted(hf), stored.shapes)
    if bad:
        raise UserError(f"{folder} does not hold the tensors that its config names: {tensors.several(bad)}")
    logging.info("reading %d tensors of %s", len(stored.shapes), folder)
    odd = []

    def finite(name: str) -> np.ndarray:
        array = stored.read(name)
        odd.extend([] if np.isfinite(array).all() else [name])
        return array

    weights = _weights(hf, finite)
    if odd:
        raise UserError(f"{folder} holds numbers that are not finite, in {tensors.several(odd)}: fetch it again")
    return hf.config, weights


def _wanted(hf: hf_config.HfConfig) -> dict[str, tuple[int, ...]]:
    """Name to shape of every tensor that the config asks for."""
    m, found = hf.config.model, {}
    vocabulary_rows = hf_config.VOCABULARY

    def layers(prefix, count, d, hidden, kv=None):
        kv = d if kv is None else kv
        for i in range(count):
            at = f"{prefix}.layers.{i}."
            for name, rows in (("q_proj", d), ("k_proj", kv), ("v_proj", kv), ("o_proj", d)):
                found[f"{at}self_attn.{name}.weight"] = (rows, d)
            found[f"{at}mlp.gate_proj.weight"] = found[f"{at}mlp.up_proj.weight"] = (hidden, d)
            found[f"{at}mlp.down_proj.weight"] = (d, hidden)
            found[f"{at}input_layernorm.weight"] = found[f"{at}post_attention_layernorm.weight"] = (d,)

    def cross(prefix, count, d):
        for i in range(count):
            at = f"{prefix}.cross_attn_layers.{i}."
            for name in _ATTENTION.values():
                found[f"{at}{name}.weight"] = (d, d)
            found[f"{at}q_norm.weight"] = found[f"{at}k_norm.weight"] = (d,)

    d, big, k = m.d_byte, m.trunk.d_model, m.pooling.queries
    encoder, decoder, trunk, patcher = "model.local_encoder", "model.local_decoder", "model.global_transformer", "model.patcher"
    found[f"{encoder}.embed_tokens.weight"] = (vocabulary_rows, d)
    tables = len(m.encoder.ngrams) * m.encoder.ngram_functions
    found["model.encoder_hash_tok_embedding.weight"] = (tables * m.encoder.ngram_rows, d)
    layers(encoder, m.encoder.layers, d, hf.hidden["encoder_config"])
    cross(encoder, hf.encoder_cross_layers, d)
    found[f"{encoder}.patch_embedding_projection.weight"] = (k * d, d)
    if k * d != big:
        found[f"{trunk}.token_embedding_projection.weight"] = (big, k * d)
    layers(trunk, m.trunk.layers, big, hf.hidden["global_config"], big // m.trunk.heads * m.trunk.kv_heads)
    found[f"{decoder}.patch_embedding_projection.weight"] = (k * d, big)
    layers(decoder, m.decoder.layers, d, hf.hidden["decoder_config"])
    cross(decoder, m.decoder.layers, d)
    found[f"{decoder}.norm.weight"] = (d,)
    found["lm_head.weight"] = (vocabulary_rows, d)
    e = m.entropy_model
    found[f"{patcher}.embed_tokens.weight"] = found[f"{patcher}.lm_head.weight"] = (vocabulary_rows, e.d_byte)
    layers(patcher, e.layers, e.d_byte, hf.hidden["patcher_config"])
    found[f"{patcher}.norm.weight"] = (e.d_byte,)
    return found


def _weights(hf: hf_config.HfConfig, read: Read) -> dict:
    m = hf.config.model
    encoder, decoder, trunk, patcher = "model.local_encoder", "model.local_decoder", "model.global_transformer", "model.patcher"
    d, width = m.d_byte, ffn_width(m.d_byte, m.ffn_multiplier)
    embed = lambda name: {"embedding": jnp.asarray(_rows(read(name), _BOS))}  # noqa: E731

    def logits(norm, head):
        return {"norm": _norm(read(norm)), "projection": _kernel(_rows(read(head), _EOS))}

    def stack(prefix, count, heads, kv_heads, wide):
        return _stacked([_block(read, f"{prefix}.layers.{i}.", heads, kv_heads, wide) for i in range(count)])

    local = lambda prefix, count, heads: stack(prefix, count, heads, heads, width)  # noqa: E731
    last = _cross(read, f"{encoder}.cross_attn_layers.{hf.encoder_cross_layers - 1}.", "query_norm", "norm")
    params = {
        "encoder": {
            "embedding": embed(f"{encoder}.embed_tokens.weight"),
            "ngrams": {"embedding": {"embedding": jnp.asarray(read("model.encoder_hash_tok_embedding.weight"))}},
            "layers": {"stack": {"block": local(encoder, m.encoder.layers, m.encoder.heads)}},
        },
        "pooling": {**last, "queries": _kernel(read(f"{encoder}.patch_embedding_projection.weight"))},
        "trunk": {
            "stack": {
                "block": stack(
                    trunk, m.trunk.layers, m.trunk.heads, m.trunk.kv_heads, ffn_width(m.trunk.d_model, m.ffn_multiplier)
                )
            }
        },
        "decoder": {
            "null": jnp.zeros(m.trunk.d_model),
            "context": _kernel(read(f"{decoder}.patch_embedding_projection.weight")),
            "stack": {
                "block": {
                    "block": local(decoder, m.decoder.layers, m.decoder.heads),
                    "cross": _stacked(
                        [
                            _cross(read, f"{decoder}.cross_attn_layers.{i}.", "norm", "context_norm")
                            for i in range(m.decoder.layers)
                        ]
                    ),
                }
            },
            "logits": logits(f"{decoder}.norm.weight", "lm_head.weight"),
        },
    }
    if m.pooling.queries * d != m.trunk.d_model:
        params["pooling"]["projection"] = _kernel(read(f"{trunk}.token_embedding_projection.weight"))
    e = m.entropy_model
    wide = ffn_width(e.d_byte, e.ffn_multiplier)
    own = {
        "encoder": {
            "embedding": embed(f"{patcher}.embed_tokens.weight"),
            "layers": {"stack": {"block": stack(patcher, e.layers, e.heads, e.heads, wide)}},
        },
        "decoder": {"logits": logits(f"{patcher}.norm.weight", f"{patcher}.lm_head.weight")},
    }
    thresholds = {f"{name}_threshold": jnp.float32(hf.config[name].threshold) for name in ("patching", "trigger")}
    found = {"params": params, "thresholds": thresholds, "frozen": {"entropy_model": own}}
    wanted = weights_lib.shapes(weights_lib.abstract(hf.config)[1])
    assert weights_lib.shapes(found) == wanted, tensors.problems(wanted, weights_lib.shapes(found))
    return found


def _block(read: Read, at: str, heads: int, kv_heads: int, wide: int) -> dict:
    """One transformer layer."""
    attention = {name: read(f"{at}self_attn.{theirs}.weight") for name, theirs in _ATTENTION.items()}
    attention["q"] = _halves(attention["q"], heads)
    attention["k"] = _halves(attention["k"], kv_heads)
    ffn = {name: read(f"{at}mlp.{theirs}.weight") for name, theirs in _FFN.items()}
    extra = wide - len(ffn["up"])
    ffn = {name: np.pad(w, ((0, 0), (0, extra)) if name == "down" else ((0, extra), (0, 0))) for name, w in ffn.items()}
    return {
        "attention": {name: _kernel(w) for name, w in attention.items()},
        "attention_norm": _norm(read(f"{at}input_layernorm.weight")),
        "ffn": {name: _kernel(w) for name, w in ffn.items()},
        "ffn_norm": _norm(read(f"{at}post_attention_layernorm.weight")),
    }


def _cross(read: Read, at: str, query_norm: str, key_norm: str) -> dict:
    """One cross-attention; the norms have other names in pooling and decoder."""
    found = {name: _kernel(read(f"{at}{theirs}.weight")) for name, theirs in _ATTENTION.items()}
    return found | {query_norm: _norm(read(f"{at}q_norm.weight")), key_norm: _norm(read(f"{at}k_norm.weight"))}


def _kernel(w: np.ndarray) -> dict:
    """A matrix [out, in] of theirs as a projection of ours."""
    return {"kernel": jnp.asarray(w.T)}


def _norm(scale: np.ndarray) -> dict:
    return {"scale": jnp.asarray(scale)}


def _stacked(layers: list[dict]) -> dict:
    first = layers[0]
    if not isinstance(first, dict):
        return jnp.stack(layers)
    return {name: _stacked([layer[name] for layer in layers]) for name in first}


def _halves(w: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key projection, neighbours that turn together moved half a head apart."""
    by_head = w.reshape(heads, -1, 2, w.shape[-1])
    return by_head.swapaxes(1, 2).reshape(w.shape)


def _rows(table: np.ndarray, end: int) -> np.ndarray:
    """A table by their ids as one by ours; `end` is their id of our BOS: 1 where read, 2 where predicted."""
    found = np.zeros((vocabulary.ROWS, table.shape[1]), np.float32)
    found[: vocabulary.BOS] = table[_BYTE:]
    found[vocabulary.BOS] = table[end]
    for ours, theirs in _SPECIAL.items():
        found[ours] = table[theirs]
    return found
