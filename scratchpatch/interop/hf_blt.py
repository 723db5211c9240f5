"""Weights of the Byte Latent Transformer (arXiv 2412.09871) in the layout of Hugging Face transformers.

What differs, and how it is made equal: RoPE there turns neighbouring channels, here halves (query and key channels are
reordered); byte b is id b + 4 there, BOS 1, EOS 2 (rows are moved; the rows of ids 0, 1 and 3 keep their part in the
probability); layers are stacked; narrower feed-forward blocks are filled up with zeros. BLT has no null context: it is
zero, and stands only where a row begins inside a document. The format: transformers 5.24, `models/blt` (Apache-2.0).
"""

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

# Their ids: PAD, BOS, EOS, one that text never has, then the bytes.
_PAD, _BOS, _EOS, _SPARE, _FIRST_BYTE = range(5)
# Our arrays that are no layer's, and their tensors.
_SINGLE = {
    "params.encoder.embedding.embedding": "model.local_encoder.embed_tokens",
    "params.encoder.ngrams.embedding.embedding": "model.encoder_hash_tok_embedding",
    "params.pooling.queries.kernel": "model.local_encoder.patch_embedding_projection",
    "params.pooling.projection.kernel": "model.global_transformer.token_embedding_projection",
    "params.decoder.context.kernel": "model.local_decoder.patch_embedding_projection",
    "params.decoder.logits.norm.scale": "model.local_decoder.norm",
    "params.decoder.logits.projection.kernel": "lm_head",
    "frozen.entropy_model.encoder.embedding.embedding": "model.patcher.embed_tokens",
    "frozen.entropy_model.decoder.logits.norm.scale": "model.patcher.norm",
    "frozen.entropy_model.decoder.logits.projection.kernel": "model.patcher.lm_head",
}
# Our stacks of layers, theirs, and the tier of our config and the section of theirs that describe them.
_STACKS = {
    "params.encoder.layers.stack.block": ("model.local_encoder.layers", "encoder", "encoder_config"),
    "params.trunk.stack.block": ("model.global_transformer.layers", "trunk", "global_config"),
    "params.decoder.stack.block.block": ("model.local_decoder.layers", "decoder", "decoder_config"),
    "frozen.entropy_model.encoder.layers.stack.block": ("model.patcher.layers", "entropy_model", "patcher_config"),
}
_LAYER = {
    "attention.q.kernel": "self_attn.q_proj", "attention.k.kernel": "self_attn.k_proj",
    "attention.v.kernel": "self_attn.v_proj", "attention.o.kernel": "self_attn.o_proj",
    "attention_norm.scale": "input_layernorm", "ffn.gate.kernel": "mlp.gate_proj", "ffn.up.kernel": "mlp.up_proj",
    "ffn.down.kernel": "mlp.down_proj", "ffn_norm.scale": "post_attention_layernorm",
}
_CROSS = {"q.kernel": "q_proj", "k.kernel": "k_proj", "v.kernel": "v_proj", "o.kernel": "o_proj"}
_DECODER_CROSS = _CROSS | {"norm.scale": "q_norm", "context_norm.scale": "k_norm"}
_POOLING_CROSS = _CROSS | {"query_norm.scale": "q_norm", "norm.scale": "k_norm"}


def read(folder: str | Path, window: int = 1024, max_patch_bytes: int = 128) -> tuple[Any, dict]:
    """(config, weights) of a Hugging Face BLT checkpoint folder (config.json, safetensors), its patcher included.
    window: bytes of a row; the memory of a pass grows with window * max_patch_bytes. max_patch_bytes: longest patch,
    where the checkpoint sets no max_patch_length. Raises UserError, and loads nothing, where there is no such
    checkpoint, and for fields that are not supported and tensors that are missing, extra, misshapen or not finite: all
    of them named.
    """
    hf = hf_config.read(folder, window, max_patch_bytes)
    stored = safetensors_folder.SafetensorsFolder(folder)
    if faults := safetensors_folder.mismatches(shapes(hf), stored.shapes):
        words = safetensors_folder.summary(faults)
        raise UserError(f"{folder} does not hold the tensors that its config names: {words}")
    logging.info("reading %d tensors of %s", len(stored.shapes), folder)
    abstract = weights_lib.abstract(hf.config)[1]
    not_finite, leaves = [], []
    for name, leaf in weights_lib.named(abstract, ".").items():
        tensors, arrays = _tensors(hf, name, leaf.shape), []
        for tensor in tensors:
            theirs = stored.read(tensor)
            if not np.isfinite(theirs).all():
                not_finite.append(tensor)
            arrays.append(_ours(hf.config, name, theirs, leaf.shape[-2:]))
        if not tensors:
            arrays = [_without_theirs(hf.config, name, leaf.shape)]
        leaves.append(jnp.asarray(arrays[0] if arrays[0].shape == leaf.shape else np.stack(arrays)))
    if not_finite:
        words = safetensors_folder.summary(sorted(not_finite))
        raise UserError(f"{folder} holds numbers that are not finite, in {words}: fetch it again")
    return hf.config, jax.tree.unflatten(jax.tree.structure(abstract), leaves)


def shapes(hf: hf_config.HfConfig) -> dict[str, tuple[int, ...]]:
    """Name to shape of every tensor that a checkpoint of this config holds."""
    wanted = {}
    for name, leaf in weights_lib.named(weights_lib.abstract(hf.config)[1], ".").items():
        for tensor in _tensors(hf, name, leaf.shape):
            wanted[tensor] = _their_shape(hf, name, leaf.shape)
    # Of the encoder's cross-attentions, the last one's result alone is used.
    *unused, last = (f"model.local_encoder.cross_attn_layers.{i}." for i in range(hf.encoder_cross_layers))
    alike = {tensor.removeprefix(last): shape for tensor, shape in wanted.items() if tensor.startswith(last)}
    return wanted | {prefix + name: shape for prefix in unused for name, shape in alike.items()}


def _stack(name: str) -> str | None:
    return next((stack for stack in _STACKS if name.startswith(f"{stack}.")), None)


def _tensors(hf: hf_config.HfConfig, name: str, shape: tuple[int, ...]) -> list[str]:
    """The tensors of theirs that an array of ours is made of: one, or one for each layer, or none."""
    if name in _SINGLE:
        return [f"{_SINGLE[name]}.weight"]
    if stack := _stack(name):
        prefix, theirs = _STACKS[stack][0], _LAYER[name.removeprefix(f"{stack}.")]
        return [f"{prefix}.{i}.{theirs}.weight" for i in range(shape[0])]
    if name.startswith("params.decoder.stack.block.cross."):
        theirs = _DECODER_CROSS[name.removeprefix("params.decoder.stack.block.cross.")]
        return [f"model.local_decoder.cross_attn_layers.{i}.{theirs}.weight" for i in range(shape[0])]
    if name.startswith("params.pooling."):
        theirs = _POOLING_CROSS[name.removeprefix("params.pooling.")]
        return [f"model.local_encoder.cross_attn_layers.{hf.encoder_cross_layers - 1}.{theirs}.weight"]
    return []


def _their_shape(hf: hf_config.HfConfig, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of each tensor that an array of ours of this shape is made of."""
    if name.endswith(".scale"):
        return shape[-1:]
    if name.endswith(".ngrams.embedding.embedding"):
        return shape
    if name.endswith(".embedding.embedding"):
        return hf_config.VOCABULARY, shape[1]
    if name.endswith(".logits.projection.kernel"):
        return hf_config.VOCABULARY, shape[0]
    rows, columns = shape[-1], shape[-2]
    if ".ffn." in name:
        hidden = hf.hidden[_STACKS[_stack(name)][2]]
        return (rows, hidden) if name.endswith(".down.kernel") else (hidden, columns)
    return rows, columns


def _ours(config, name: str, theirs: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor of theirs as an array of ours, or as one layer of it; shape: of ours, where it is a matrix."""
    if name.endswith((".scale", ".ngrams.embedding.embedding")):
        return theirs
    if name.endswith(".embedding.embedding"):
        return _rows(config, theirs, _BOS)
    if name.endswith(".logits.projection.kernel"):
        return _rows(config, theirs, _EOS).T
    if name.endswith((".attention.q.kernel", ".attention.k.kernel")):
        # Channels that turn together are neighbours there, and half a head apart here.
        head_width = theirs.shape[1] // config.model[_STACKS[_stack(name)][1]].heads
        theirs = theirs.reshape(-1, head_width // 2, 2, theirs.shape[1]).swapaxes(1, 2).reshape(theirs.shape)
    # A projection of theirs is [out, in]; a narrower feed-forward block is filled up with zeros.
    missing = [(0, ours - have) for ours, have in zip(shape, theirs.T.shape, strict=True)]
    return np.pad(theirs.T, missing) if ".ffn." in name else theirs.T


def _rows(config, theirs: np.ndarray, boundary: int) -> np.ndarray:
    """Rows by their ids as rows by ours; `boundary` is the id of theirs that stands for our BOS."""
    vocabulary = config_lib.vocabulary(config)
    rows = np.zeros((vocabulary.rows, theirs.shape[1]), np.float32)
    rows[: vocabulary.bos] = theirs[_FIRST_BYTE:]
    rows[vocabulary.bos] = theirs[boundary]
    # Our rows from PAD on are no targets: there is room for the ids that stand for nothing of ours.
    rows[vocabulary.pad : vocabulary.pad + 3] = theirs[[_PAD, _BOS, _SPARE]]
    return rows


def _without_theirs(config, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """An array of ours that theirs has none for: a threshold, or the null context."""
    section, is_threshold, _ = name.removeprefix("thresholds.").partition("_threshold")
    return np.full(shape, config[section].threshold if is_threshold else 0.0, np.float32)
