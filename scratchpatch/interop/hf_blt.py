"""Weights of the Byte Latent Transformer in the layout of Hugging Face transformers.

What differs, and how it is made equal: RoPE there turns neighbouring channels, here halves (query and key channels are
reordered); byte b is id b + 4 there, BOS 1, EOS 2 (rows are moved; the rows of ids 0, 1 and 3 keep their part in the
probability); layers are stacked; narrower feed-forward blocks are filled up with zeros. BLT has no null context: it is
zero, and stands only where a row begins inside a document.

Facts of the format: transformers 5.24, `models/blt` (Apache-2.0); the paper is arXiv 2412.09871.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from scratchpatch import config as config_lib
from scratchpatch.errors import UserError
from scratchpatch.interop import hf_config, safetensors_folder
from scratchpatch.model import weights as weights_lib
from scratchpatch.model.layers import ffn_width

# Their ids: PAD, BOS, EOS, a fourth one that text never has, then the bytes.
_PAD, _BOS, _EOS, _SPARE, _FIRST_BYTE = range(5)
_ENCODER = "model.local_encoder"
_ATTENTION = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj"}


def read(folder: str | Path, window: int = 1024, max_patch_bytes: int = 128) -> tuple[Any, dict]:
    """(config, weights) of a Hugging Face BLT checkpoint folder (config.json, safetensors), its patcher included.

    The model patches as the paper says: local layers see `local_attention_window_len` bytes, and documents in one row
    do not see each other. The memory of a pass grows with window * max_patch_bytes.

    Args:
      folder: of the checkpoint.
      window: bytes of a row (data.window).
      max_patch_bytes: longest patch, where the checkpoint sets no max_patch_length.

    Raises:
      UserError: no such checkpoint; fields that are not supported; tensors that are missing, extra, misshapen or not
        finite: all of them named. Nothing is loaded then.
    """
    hf = hf_config.read(folder, window, max_patch_bytes)
    stored = safetensors_folder.SafetensorsFolder(folder)
    faults = safetensors_folder.mismatches(shapes(hf), stored.shapes)
    if faults:
        raise UserError(
            f"{folder} does not hold the tensors that its config names: {safetensors_folder.summary(faults)}"
        )
    logging.info("reading %d tensors of %s", len(stored.shapes), folder)
    not_finite = []

    def load(leaf: _Tensor | np.ndarray) -> jax.Array:
        if isinstance(leaf, np.ndarray):
            return jnp.asarray(leaf)
        theirs = stored.read(leaf.name)
        if not np.isfinite(theirs).all():
            not_finite.append(leaf.name)
        return jnp.asarray(leaf.change(theirs))

    weights = _loaded(_layout(hf), load)
    if not_finite:
        raise UserError(
            f"{folder} holds numbers that are not finite, in {safetensors_folder.summary(not_finite)}: fetch it again"
        )
    wanted, made = weights_lib.shapes(weights_lib.abstract(hf.config)[1]), weights_lib.shapes(weights)
    assert made == wanted, safetensors_folder.mismatches(wanted, made)
    return hf.config, weights


def shapes(hf: hf_config.HfConfig) -> dict[str, tuple[int, ...]]:
    """Name to shape of every tensor that a checkpoint of this config holds."""
    # Of the encoder's cross-attentions the layout has the last one alone.
    encoder_cross = [_cross_attention(f"{_ENCODER}.cross_attn_layers.{i}", hf) for i in range(hf.encoder_cross_layers)]
    leaves = jax.tree.leaves((_layout(hf), encoder_cross))
    return {tensor.name: tensor.shape for tensor in leaves if isinstance(tensor, _Tensor)}


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A tensor of theirs, and how it becomes an array of ours."""

    name: str
    shape: tuple[int, ...]
    change: Callable[[np.ndarray], np.ndarray]


def _layout(hf: hf_config.HfConfig) -> dict:
    """Our weights, with tensors of theirs (or NumPy arrays) as leaves, and lists where ours are stacked layers."""
    m, e, ids = hf.config.model, hf.config.model.entropy_model, hf_config.VOCABULARY
    d, big, joined = m.d_byte, m.trunk.d_model, m.pooling.queries * m.d_byte
    vocabulary = config_lib.vocabulary(hf.config)

    def rows(theirs: np.ndarray, boundary: int) -> np.ndarray:
        """Rows by their ids as rows by ours; `boundary` is the id of theirs that stands for our BOS."""
        table = np.zeros((vocabulary.rows, theirs.shape[1]), np.float32)
        table[: vocabulary.bos] = theirs[_FIRST_BYTE:]
        table[vocabulary.bos] = theirs[boundary]
        # Our rows from PAD on are no targets: there is room for their special ids.
        table[vocabulary.pad : vocabulary.pad + 3] = theirs[[_PAD, _BOS, _SPARE]]
        return table

    def embedding(name: str, width: int) -> dict:
        return {"embedding": _Tensor(f"{name}.weight", (ids, width), functools.partial(rows, boundary=_BOS))}

    def logits(norm: str, head: str, width: int) -> dict:
        projection = _Tensor(f"{head}.weight", (ids, width), lambda theirs: rows(theirs, _EOS).T)
        return {"norm": _norm(norm, width), "projection": {"kernel": projection}}

    def layers(prefix: str, tier, width: int, multiplier: float, hidden: int, kv_heads: int = 0) -> list[dict]:
        heads, ours = (tier.heads, kv_heads or tier.heads), ffn_width(width, multiplier)
        return [_layer(f"{prefix}.layers.{i}", width, *heads, hidden, ours) for i in range(tier.layers)]

    encoder, decoder, trunk, patcher = _ENCODER, "model.local_decoder", "model.global_transformer", "model.patcher"
    hidden, multiplier = hf.hidden, m.ffn_multiplier
    tables = len(m.encoder.ngrams) * m.encoder.ngram_functions * m.encoder.ngram_rows
    ngrams = _Tensor("model.encoder_hash_tok_embedding.weight", (tables, d), np.asarray)
    last_cross = _cross_attention(f"{encoder}.cross_attn_layers.{hf.encoder_cross_layers - 1}", hf)
    pooling = {
        **last_cross["projections"],
        "query_norm": last_cross["query_norm"],
        "norm": last_cross["context_norm"],
        "queries": _kernel(f"{encoder}.patch_embedding_projection", joined, d),
    }
    if joined != big:
        pooling["projection"] = _kernel(f"{trunk}.token_embedding_projection", big, joined)
    decoder_cross = [_cross_attention(f"{decoder}.cross_attn_layers.{i}", hf) for i in range(m.decoder.layers)]
    params = {
        "encoder": {
            "embedding": embedding(f"{encoder}.embed_tokens", d),
            "ngrams": {"embedding": {"embedding": ngrams}},
            "layers": {"stack": {"block": layers(encoder, m.encoder, d, multiplier, hidden["encoder_config"])}},
        },
        "pooling": pooling,
        "trunk": {
            "stack": {"block": layers(trunk, m.trunk, big, multiplier, hidden["global_config"], m.trunk.kv_heads)},
        },
        "decoder": {
            "null": np.zeros(big, np.float32),
            "context": _kernel(f"{decoder}.patch_embedding_projection", joined, big),
            "stack": {
                "block": {
                    "block": layers(decoder, m.decoder, d, multiplier, hidden["decoder_config"]),
                    "cross": [
                        {**cross["projections"], "norm": cross["query_norm"], "context_norm": cross["context_norm"]}
                        for cross in decoder_cross
                    ],
                }
            },
            "logits": logits(f"{decoder}.norm", "lm_head", d),
        },
    }
    entropy_model = {
        "encoder": {
            "embedding": embedding(f"{patcher}.embed_tokens", e.d_byte),
            "layers": {"stack": {"block": layers(patcher, e, e.d_byte, e.ffn_multiplier, hidden["patcher_config"])}},
        },
        "decoder": {"logits": logits(f"{patcher}.norm", f"{patcher}.lm_head", e.d_byte)},
    }
    sections = ("patching", "trigger")
    thresholds = {f"{name}_threshold": np.array(hf.config[name].threshold, np.float32) for name in sections}
    return {"params": params, "thresholds": thresholds, "frozen": {"entropy_model": entropy_model}}


def _layer(at: str, width: int, heads: int, kv_heads: int, hidden: int, our_hidden: int) -> dict:
    """One transformer layer. hidden: of their feed-forward block; our_hidden: of ours, which zeros fill up."""
    kv, fill = width // heads * kv_heads, our_hidden - hidden
    attention = {
        "q": _kernel(f"{at}.self_attn.q_proj", width, width, lambda w: _halves(w, heads)),
        "k": _kernel(f"{at}.self_attn.k_proj", kv, width, lambda w: _halves(w, kv_heads)),
        "v": _kernel(f"{at}.self_attn.v_proj", kv, width),
        "o": _kernel(f"{at}.self_attn.o_proj", width, width),
    }
    ffn = {
        "gate": _kernel(f"{at}.mlp.gate_proj", hidden, width, lambda w: np.pad(w, ((0, fill), (0, 0)))),
        "up": _kernel(f"{at}.mlp.up_proj", hidden, width, lambda w: np.pad(w, ((0, fill), (0, 0)))),
        "down": _kernel(f"{at}.mlp.down_proj", width, hidden, lambda w: np.pad(w, ((0, 0), (0, fill)))),
    }
    return {
        "attention": attention,
        "attention_norm": _norm(f"{at}.input_layernorm", width),
        "ffn": ffn,
        "ffn_norm": _norm(f"{at}.post_attention_layernorm", width),
    }


def _cross_attention(at: str, hf: hf_config.HfConfig) -> dict:
    """One cross-attention; pooling and decoder have other names for its norms."""
    d = hf.config.model.d_byte
    projections = {name: _kernel(f"{at}.{theirs}", d, d) for name, theirs in _ATTENTION.items()}
    norms = {"query_norm": _norm(f"{at}.q_norm", d), "context_norm": _norm(f"{at}.k_norm", d)}
    return {"projections": projections, **norms}


def _kernel(name: str, rows: int, columns: int, change: Callable[[np.ndarray], np.ndarray] = np.asarray) -> dict:
    """A matrix [out, in] of theirs, changed and turned into a projection [in, out] of ours."""
    return {"kernel": _Tensor(f"{name}.weight", (rows, columns), lambda theirs: change(theirs).T)}


def _norm(name: str, width: int) -> dict:
    return {"scale": _Tensor(f"{name}.weight", (width,), np.asarray)}


def _halves(theirs: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key projection, neighbours that turn together moved half a head apart."""
    by_head = theirs.reshape(heads, -1, 2, theirs.shape[-1])
    return by_head.swapaxes(1, 2).reshape(theirs.shape)


def _loaded(layout: Any, load: Callable[[_Tensor | np.ndarray], jax.Array]) -> Any:
    """The layout with arrays for its leaves; of a list of layers, one parameter after the other is read and stacked."""
    if isinstance(layout, list):
        return jax.tree.map(lambda *layers: jnp.stack([load(layer) for layer in layers]), *layout)
    return {name: _loaded(x, load) for name, x in layout.items()} if isinstance(layout, dict) else load(layout)
