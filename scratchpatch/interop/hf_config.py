"""The config.json of a Hugging Face BLT checkpoint, as a config of ours.

Facts of the format: transformers 5.24, `models/blt` (Apache-2.0). What it
leaves out has the default that it has there.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Required, TypedDict

from msgspec import Meta

from scratchpatch import config as config_lib
from scratchpatch import json_files
from scratchpatch.errors import UserError
from scratchpatch.interop.tensors import several, shown

VOCABULARY = 260
_TIERS = ("patcher_config", "encoder_config", "decoder_config", "global_config")
_TOP = {
    "vocab_size": VOCABULARY,
    "patch_in_forward": True,
    "patching_mode": "entropy",
    "patch_size": 4,
    "patching_threshold": 1.335442066192627,
    "patching_threshold_add": None,
    "monotonicity": False,
    "max_patch_length": None,
    "local_attention_window_len": 512,
    "cross_attn_k": 2,
    "encoder_hash_byte_group_size": (3, 4, 5, 6, 7, 8),
    "encoder_hash_byte_group_vocab": 500002,
    "encoder_hash_byte_group_nb_functions": 1,
    "tie_word_embeddings": False,
    "pm_size": 0,
}
_LAYERS = {
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "head_dim": None,
    "num_key_value_heads": None,
    "intermediate_size": None,
    "rope_parameters": None,
    "rope_theta": None,
    "rope_scaling": None,
    "tie_word_embeddings": False,
}
_CROSS = {"vocab_size": VOCABULARY, "cross_attn_k": 2, "hidden_size_global": 2048}
# What acts there is the window of local_attention_window_len, whatever the two local tiers' own fields say.
_WINDOW = {"sliding_window": None}
_DEFAULTS = {
    "patcher_config": _LAYERS
    | {"vocab_size": VOCABULARY, "hidden_size": 768, "num_hidden_layers": 14, "num_attention_heads": 12}
    | {"intermediate_size": 2048, "sliding_window": 512},
    "encoder_config": _LAYERS
    | _CROSS
    | {"hidden_size": 1024, "num_hidden_layers": 1, "num_attention_heads": 16, "cross_attn_all_layers": False}
    | _WINDOW,
    "decoder_config": _LAYERS
    | _CROSS
    | {"hidden_size": 1024, "num_hidden_layers": 9, "num_attention_heads": 16, "cross_attn_all_layers": True}
    | {"intermediate_size": 2816}
    | _WINDOW,
    "global_config": _LAYERS
    | {"hidden_size": 2048, "num_hidden_layers": 25, "num_attention_heads": 16, "intermediate_size": 5632}
    | {"encoder_cross_output_size": None},
}
_THETA = {"patcher_config": 10000.0}
# Of no bearing on what the model computes at inference.
_IGNORED = {
    *("architectures", "auto_map", "bos_token_id", "dtype", "dropout", "eos_token_id", "initializer_range"),
    *("is_decoder", "max_length", "max_position_embeddings", "model_type", "output_attentions", "output_hidden_states"),
    *("pad_token_id", "patching_batch_size", "patching_device", "problem_type", "realtime_patching", "return_dict"),
    *("sep_token_id", "torch_dtype", "transformers_version", "use_cache", "_name_or_path", "original_spec", "id2label"),
    *("label2id", "chunk_size_feed_forward", "seqlen", "max_seqlen"),
}
# Each tier turns its heads by its own fields; transformers writes these at the top as well, and reads them nowhere.
_IGNORED_AT_TOP = _IGNORED | {"head_dim", "rope_parameters", "rope_scaling", "rope_theta"}

_Width = Annotated[int, Meta(ge=1, le=1 << 18)]
_Heads = Annotated[int, Meta(ge=1, le=1 << 12)]
_Bytes = Annotated[int, Meta(ge=1, le=1 << 30)]
_Nats = Annotated[float, Meta(ge=-1e6, le=1e6)]
_Theta = Annotated[float, Meta(ge=1, le=1e12)]


class _Rope(TypedDict, total=False):
    rope_type: str
    type: str
    rope_theta: _Theta | None


class _Tier(TypedDict, total=False):
    """The fields of any tier; those that can have one value alone are compared with it, of whatever type they are."""

    hidden_size: _Width
    num_hidden_layers: Annotated[int, Meta(ge=1, le=1024)]
    num_attention_heads: _Heads
    num_key_value_heads: _Heads | None
    head_dim: _Width | None
    intermediate_size: Annotated[int, Meta(ge=1, le=1 << 20)] | None
    rms_norm_eps: Annotated[float, Meta(ge=0, le=1)]
    rope_parameters: _Rope | None
    rope_scaling: _Rope | None
    rope_theta: _Theta | None
    sliding_window: _Bytes | None
    cross_attn_k: _Heads
    hidden_size_global: _Width
    cross_attn_all_layers: bool | None


class _Config(TypedDict, total=False):
    model_type: Required[str]
    patch_size: _Bytes | None
    patching_threshold: _Nats | None
    patching_threshold_add: _Nats | None
    monotonicity: bool | None
    max_patch_length: _Bytes | None
    local_attention_window_len: _Bytes | None
    cross_attn_k: _Heads
    encoder_hash_byte_group_size: Annotated[list[Annotated[int, Meta(ge=2, le=16)]], Meta(max_length=15)] | None
    encoder_hash_byte_group_vocab: Annotated[int, Meta(ge=1, le=2_000_000)]
    encoder_hash_byte_group_nb_functions: Annotated[int, Meta(ge=1, le=11)]
    patcher_config: _Tier | None
    encoder_config: _Tier | None
    decoder_config: _Tier | None
    global_config: _Tier | None


class _Kind(TypedDict, total=False):
    model_type: Any


@dataclasses.dataclass(frozen=True)
class HfConfig:
    """A read config: ours, and the shapes and names that the tensors need.

    hidden: width of the feed-forward block by tier ('patcher_config', ...);
    kv_heads likewise. encoder_cross_layers: cross-attentions of the encoder;
    only the last one's result is used.
    """

    config: Any
    hidden: dict[str, int]
    kv_heads: dict[str, int]
    encoder_cross_layers: int


def read(folder: str | Path, window: int, max_patch_bytes: int) -> HfConfig:
    """Read config.json.

    Args:
      folder: of the checkpoint.
      window: bytes of a row (data.window).
      max_patch_bytes: longest patch where the checkpoint sets no limit.

    Raises:
      UserError: no config, or fields that are not supported, all of them named.
    """
    path = Path(folder) / "config.json"
    try:
        kind = json_files.read(path, _Kind).get("model_type")
        if kind != "blt":
            raise UserError(f"{path}: model_type is {_brief(kind)}, wanted 'blt'")
        reader = _Reader(json_files.read(path, _Config))
    except FileNotFoundError as error:
        raise UserError(f"{folder} is no Hugging Face checkpoint: it has no config.json") from error
    except json_files.Malformed as error:
        raise UserError(f"cannot read {shown(error)}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    found = reader.convert(window, max_patch_bytes)
    if reader.bad:
        raise UserError(f"{path} asks for what is not supported: {several(reader.bad)}")
    try:
        config_lib.check(found.config)
    except UserError as error:
        raise UserError(f"{path} asks for what is not supported: {error}") from error
    return found


class _Reader:
    """Fields with their defaults; `bad` gathers what is not supported."""

    def __init__(self, values: dict):
        self.bad: list[str] = []
        self.top = self._with_defaults("", _TOP, {k: v for k, v in values.items() if k not in _TIERS}, _IGNORED_AT_TOP)
        self.tiers = {t: self._with_defaults(f"{t}.", _DEFAULTS[t], values.get(t) or {}, _IGNORED) for t in _TIERS}

    def _with_defaults(self, prefix: str, known: dict, values: dict, ignored: set[str]) -> dict:
        unknown = [k for k, v in values.items() if k not in known and k not in ignored and v not in (None, False, [], {})]
        self.bad += [f"{prefix}{shown(k)} = {_brief(values[k])}" for k in unknown]
        return known | {k: v for k, v in values.items() if k in known}

    def want(self, name: str, value, wanted) -> None:
        if value != wanted:
            self.bad.append(f"{name} = {_brief(value)} (only {wanted!r})")

    def theta(self, tier: str) -> float:
        fields = self.tiers[tier]
        # The old name stands before the new one, as there.
        name = "rope_scaling" if fields["rope_scaling"] else "rope_parameters"
        rope = fields[name] or {}
        self.want(f"{tier}.{name}.rope_type", rope.get("rope_type", rope.get("type", "default")), "default")
        return float(rope.get("rope_theta") or fields["rope_theta"] or _THETA.get(tier, 500000.0))

    def heads(self, tier: str, kv_heads: int) -> None:
        """Check how the width of a tier falls into heads."""
        width, heads = self.tiers[tier]["hidden_size"], self.tiers[tier]["num_attention_heads"]
        if width % (2 * heads):
            self.bad.append(f"{tier}.num_attention_heads = {heads} (must divide hidden_size = {width} into even widths)")
        elif self.tiers[tier]["head_dim"] is not None:
            self.want(f"{tier}.head_dim", self.tiers[tier]["head_dim"], width // heads)
        if tier != "global_config":
            self.want(f"{tier}.num_key_value_heads", kv_heads, heads)
        elif heads % kv_heads:
            self.bad.append(f"{tier}.num_key_value_heads = {kv_heads} (must divide num_attention_heads = {heads})")

    def convert(self, window: int, max_patch_bytes: int) -> HfConfig:
        top, tiers = self.top, self.tiers
        patcher, encoder, decoder, trunk = (tiers[t] for t in _TIERS)
        thetas = {t: self.theta(t) for t in _TIERS}
        heads = {t: tiers[t]["num_attention_heads"] for t in _TIERS}
        kv_heads = {t: tiers[t]["num_key_value_heads"] or heads[t] for t in _TIERS}
        hidden = {t: tiers[t]["intermediate_size"] or int(8 * tiers[t]["hidden_size"] / 3) for t in _TIERS}
        for name in ("vocab_size", "patch_in_forward", "patching_mode", "tie_word_embeddings"):
            self.want(name, top[name], _TOP[name])
        self.want("pm_size", top["pm_size"] or 0, 0)
        for tier in _TIERS:
            self.want(f"{tier}.hidden_act", tiers[tier]["hidden_act"], "silu")
            self.want(f"{tier}.tie_word_embeddings", tiers[tier]["tie_word_embeddings"], False)
            if "vocab_size" in tiers[tier]:
                self.want(f"{tier}.vocab_size", tiers[tier]["vocab_size"], VOCABULARY)
            self.heads(tier, kv_heads[tier])
        for name in ("hidden_size", "rms_norm_eps"):
            self.want(f"decoder_config.{name}", decoder[name], encoder[name])
        self.want("global_config.rms_norm_eps", trunk["rms_norm_eps"], encoder["rms_norm_eps"])
        for tier in ("decoder_config", "global_config"):
            self.want(f"{tier}.rope_theta", thetas[tier], thetas["encoder_config"])
        for tier in ("encoder_config", "decoder_config"):
            self.want(f"{tier}.cross_attn_k", tiers[tier]["cross_attn_k"], top["cross_attn_k"])
        self.want("decoder_config.hidden_size_global", decoder["hidden_size_global"], trunk["hidden_size"])
        if decoder["num_hidden_layers"] > 1 and not decoder["cross_attn_all_layers"]:
            value = decoder["cross_attn_all_layers"]
            self.bad.append(f"decoder_config.cross_attn_all_layers = {value} (only true: here every layer reads the context)")
        for name in ("patching_threshold", "patch_size"):
            if top[name] is None:
                self.bad.append(f"{name} = None")
        return HfConfig(
            _ours(top, tiers, thetas, kv_heads, hidden, window, max_patch_bytes),
            hidden,
            kv_heads,
            encoder["num_hidden_layers"] if encoder["cross_attn_all_layers"] else 1,
        )


def _brief(value: Any) -> str:
    text = shown(repr(value))
    return text if len(text) <= 80 else f"{text[:77]}..."


def _ours(top, tiers, thetas, kv_heads, hidden, window: int, max_patch_bytes: int):
    patcher, encoder, decoder, trunk = (tiers[t] for t in _TIERS)
    # One multiplier serves encoder, decoder and trunk; narrower blocks are filled up with zeros.
    widest = max(hidden[t] / tiers[t]["hidden_size"] for t in _TIERS if t != "patcher_config")
    local = top["local_attention_window_len"] or window
    jump = top["patching_threshold_add"] or 0.0
    kind = "entropy_jump" if top["monotonicity"] else "entropy_and_jump" if jump else "entropy"
    fields = {
        "data.window": window,
        "model.d_byte": encoder["hidden_size"],
        "model.ffn_multiplier": widest,
        "model.rope_theta": thetas["encoder_config"],
        "model.norm_eps": encoder["rms_norm_eps"],
        "model.target_rows": VOCABULARY,
        "model.cross_residual": 2,
        "model.encoder.layers": encoder["num_hidden_layers"],
        "model.encoder.heads": encoder["num_attention_heads"],
        "model.encoder.window": min(local, window),
        "model.encoder.ngrams": tuple(top["encoder_hash_byte_group_size"] or _TOP["encoder_hash_byte_group_size"]),
        "model.encoder.ngram_rows": top["encoder_hash_byte_group_vocab"],
        "model.encoder.ngram_functions": top["encoder_hash_byte_group_nb_functions"],
        "model.entropy_head.weight": 0.0,
        "model.entropy_model.layers": patcher["num_hidden_layers"],
        "model.entropy_model.d_byte": patcher["hidden_size"],
        "model.entropy_model.heads": patcher["num_attention_heads"],
        "model.entropy_model.window": min(patcher["sliding_window"] or window, window),
        "model.entropy_model.ffn_multiplier": hidden["patcher_config"] / patcher["hidden_size"],
        "model.entropy_model.rope_theta": thetas["patcher_config"],
        "model.entropy_model.norm_eps": patcher["rms_norm_eps"],
        "model.pooling.kind": "max_query",
        "model.pooling.queries": top["cross_attn_k"],
        "model.pooling.heads": encoder["num_attention_heads"],
        "model.pooling.last_state": False,
        "model.trunk.layers": trunk["num_hidden_layers"],
        "model.trunk.d_model": trunk["hidden_size"],
        "model.trunk.heads": trunk["num_attention_heads"],
        "model.trunk.kv_heads": kv_heads["global_config"],
        "model.trunk.final_norm": False,
        "model.decoder.layers": decoder["num_hidden_layers"],
        "model.decoder.heads": decoder["num_attention_heads"],
        "model.decoder.window": min(local, window),
        "model.decoder.injection": "cross_attention",
        "model.decoder.context_vectors": top["cross_attn_k"],
        "patching.kind": kind,
        "patching.patch_bytes": top["patch_size"] or 4,
        "patching.threshold": top["patching_threshold"] or 0.0,
        "patching.jump": jump,
        "patching.commit_bos": True,
        "patching.max_patch_bytes": top["max_patch_length"] or min(max_patch_bytes, window),
        "patching.capacity": 1.0,
        "trigger.kind": "none",
    }
    config = config_lib.default()
    for name, value in fields.items():
        config_lib.set_field(config, name, value)
    return config
