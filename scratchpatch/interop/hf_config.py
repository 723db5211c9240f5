"""The config.json of a Hugging Face BLT checkpoint, as a config of ours.

Facts of the format: transformers 5.23, `models/blt` (Apache-2.0). What it
leaves out has the default that it has there.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from scratchpatch import config as config_lib
from scratchpatch.errors import UserError

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
    "num_key_value_heads": None,
    "intermediate_size": None,
    "rope_parameters": None,
    "rope_theta": None,
    "rope_scaling": None,
    "tie_word_embeddings": False,
}
_CROSS = {"vocab_size": VOCABULARY, "cross_attn_k": 2, "hidden_size_global": 2048}
_DEFAULTS = {
    "patcher_config": _LAYERS
    | {"vocab_size": VOCABULARY, "hidden_size": 768, "num_hidden_layers": 14, "num_attention_heads": 12}
    | {"intermediate_size": 2048, "sliding_window": 512},
    "encoder_config": _LAYERS
    | _CROSS
    | {"hidden_size": 1024, "num_hidden_layers": 1, "num_attention_heads": 16, "cross_attn_all_layers": False}
    | {"sliding_window": None},
    "decoder_config": _LAYERS
    | _CROSS
    | {"hidden_size": 1024, "num_hidden_layers": 9, "num_attention_heads": 16, "cross_attn_all_layers": True}
    | {"intermediate_size": 2816},
    "global_config": _LAYERS
    | {"hidden_size": 2048, "num_hidden_layers": 25, "num_attention_heads": 16, "intermediate_size": 5632}
    | {"encoder_cross_output_size": None},
}
_THETA = {"patcher_config": 10000.0}
# Of no bearing on what the model computes at inference.
_IGNORED = {
    *("architectures", "auto_map", "bos_token_id", "dtype", "dropout", "eos_token_id", "head_dim", "initializer_range"),
    *("is_decoder", "max_length", "max_position_embeddings", "model_type", "output_attentions", "output_hidden_states"),
    *("pad_token_id", "patching_batch_size", "patching_device", "problem_type", "realtime_patching", "return_dict"),
    *("sep_token_id", "torch_dtype", "transformers_version", "use_cache", "_name_or_path", "original_spec", "id2label"),
    *("label2id", "chunk_size_feed_forward", "seqlen", "max_seqlen"),
}


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
        values = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{folder} is no Hugging Face checkpoint: it has no config.json") from error
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    if not isinstance(values, dict) or values.get("model_type") != "blt":
        found = values.get("model_type") if isinstance(values, dict) else values
        raise UserError(f"{path}: model_type is {found!r}, wanted 'blt'")
    reader = _Reader(values)
    found = reader.convert(window, max_patch_bytes)
    if reader.bad:
        raise UserError(f"{path} asks for what is not supported: {'; '.join(reader.bad)}")
    config_lib.check(found.config)
    return found


class _Reader:
    """Fields with their defaults; `bad` gathers what is not supported."""

    def __init__(self, values: dict):
        self.bad: list[str] = []
        self.top = self._with_defaults("", _TOP, {k: v for k, v in values.items() if k not in _TIERS})
        self.tiers = {t: self._with_defaults(f"{t}.", _DEFAULTS[t], values.get(t) or {}) for t in _TIERS}

    def _with_defaults(self, prefix: str, known: dict, values: dict) -> dict:
        unknown = [k for k, v in values.items() if k not in known and k not in _IGNORED and v not in (None, False, [], {})]
        self.bad += [f"{prefix}{k} = {values[k]!r}" for k in unknown]
        return known | {k: v for k, v in values.items() if k in known}

    def want(self, name: str, value, wanted) -> None:
        if value != wanted:
            self.bad.append(f"{name} = {value!r} (only {wanted!r})")

    def theta(self, tier: str) -> float:
        fields = self.tiers[tier]
        rope = fields["rope_parameters"] or {}
        kind = rope.get("rope_type", (fields["rope_scaling"] or {}).get("rope_type", "default"))
        self.want(f"{tier}.rope_parameters.rope_type", kind, "default")
        return float(rope.get("rope_theta") or fields["rope_theta"] or _THETA.get(tier, 500000.0))

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
            if tier != "global_config":
                self.want(f"{tier}.num_key_value_heads", kv_heads[tier], heads[tier])
        for name in ("hidden_size", "rms_norm_eps"):
            self.want(f"decoder_config.{name}", decoder[name], encoder[name])
        self.want("global_config.rms_norm_eps", trunk["rms_norm_eps"], encoder["rms_norm_eps"])
        for tier in ("decoder_config", "global_config"):
            self.want(f"{tier}.rope_theta", thetas[tier], thetas["encoder_config"])
        for tier in ("encoder_config", "decoder_config"):
            self.want(f"{tier}.cross_attn_k", tiers[tier]["cross_attn_k"], top["cross_attn_k"])
        self.want("decoder_config.hidden_size_global", decoder["hidden_size_global"], trunk["hidden_size"])
        self.want("decoder_config.cross_attn_all_layers", decoder["cross_attn_all_layers"], True)
        for name in ("patching_threshold", "patch_size"):
            if top[name] is None:
                self.bad.append(f"{name} = None")
        if any(tiers[t]["num_hidden_layers"] < 1 for t in _TIERS):
            self.bad.append("a tier without layers")
        return HfConfig(
            _ours(top, tiers, thetas, kv_heads, hidden, window, max_patch_bytes),
            hidden,
            kv_heads,
            encoder["num_hidden_layers"] if encoder["cross_attn_all_layers"] else 1,
        )


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
        "model.encoder.ngrams": tuple(top["encoder_hash_byte_group_size"]),
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
