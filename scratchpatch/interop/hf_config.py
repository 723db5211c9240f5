"""The config.json of a Hugging Face BLT checkpoint, as a config of ours (format: transformers 5.24, `models/blt`).

The classes below have the fields that are read, with their bounds and the defaults of transformers. A field of type Any
can have one value alone, and is compared with it.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, TypedDict

import msgspec
from msgspec import Meta

from scratchpatch import config as config_lib, json_files
from scratchpatch.errors import UserError
from scratchpatch.interop.safetensors_folder import printable, summary

# Ids of their vocabulary: four special ones, then the 256 bytes.
VOCABULARY = 260

_Width = Annotated[int, Meta(ge=1, le=1 << 18)]
_Heads = Annotated[int, Meta(ge=1, le=1 << 12)]
_Layers = Annotated[int, Meta(ge=1, le=1024)]
_Hidden = Annotated[int, Meta(ge=1, le=1 << 20)]
_Bytes = Annotated[int, Meta(ge=1, le=1 << 30)]
_Nats = Annotated[float, Meta(ge=-1e6, le=1e6)]
_Theta = Annotated[float, Meta(ge=1, le=1e12)]


class _Rope(TypedDict, total=False):
    rope_type: str
    type: str
    factor: Any
    rope_theta: _Theta | None


class _Section(msgspec.Struct, kw_only=True):
    """The fields of every section."""

    hidden_size: _Width
    num_hidden_layers: _Layers
    num_attention_heads: _Heads
    num_key_value_heads: _Heads | None = None
    head_dim: _Width | None = None
    intermediate_size: _Hidden | None = None
    rms_norm_eps: Annotated[float, Meta(ge=0, le=1)] = 1e-5
    rope_parameters: _Rope | None = None
    rope_scaling: _Rope | None = None
    rope_theta: _Theta | None = None
    hidden_act: Any = "silu"
    tie_word_embeddings: Any = False

    @property
    def kv_heads(self) -> int:
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def hidden(self) -> int:
        """The width of the feed-forward block."""
        return self.intermediate_size or int(8 * self.hidden_size / 3)


class _Patcher(_Section, kw_only=True):
    vocab_size: Any = VOCABULARY
    hidden_size: _Width = 768
    num_hidden_layers: _Layers = 14
    num_attention_heads: _Heads = 12
    intermediate_size: _Hidden | None = 2048
    sliding_window: _Bytes | None = 512


class _Local(_Section, kw_only=True):
    """What encoder and decoder share. Their window is local_attention_window_len, whatever sliding_window says."""

    vocab_size: Any = VOCABULARY
    cross_attn_k: _Heads = 2
    hidden_size: _Width = 1024
    hidden_size_global: _Width = 2048
    num_attention_heads: _Heads = 16
    sliding_window: _Bytes | None = None


class _Encoder(_Local, kw_only=True):
    num_hidden_layers: _Layers = 1
    cross_attn_all_layers: bool | None = False


class _Decoder(_Local, kw_only=True):
    num_hidden_layers: _Layers = 9
    intermediate_size: _Hidden | None = 2816
    cross_attn_all_layers: bool | None = True


class _Global(_Section, kw_only=True):
    hidden_size: _Width = 2048
    num_hidden_layers: _Layers = 25
    num_attention_heads: _Heads = 16
    intermediate_size: _Hidden | None = 5632
    encoder_cross_output_size: Any = None


class _Blt(msgspec.Struct, kw_only=True):
    vocab_size: Any = VOCABULARY
    patch_in_forward: Any = True
    patching_mode: Any = "entropy"
    patch_size: _Bytes | None = 4
    patching_threshold: _Nats | None = 1.335442066192627
    patching_threshold_add: _Nats | None = None
    monotonicity: bool | None = False
    max_patch_length: _Bytes | None = None
    local_attention_window_len: _Bytes | None = 512
    cross_attn_k: _Heads = 2
    encoder_hash_byte_group_size: (
        Annotated[tuple[Annotated[int, Meta(ge=2, le=16)], ...], Meta(max_length=15)] | None
    ) = (3, 4, 5, 6, 7, 8)
    encoder_hash_byte_group_vocab: Annotated[int, Meta(ge=1, le=2_000_000)] = 500002
    encoder_hash_byte_group_nb_functions: Annotated[int, Meta(ge=1, le=11)] = 1
    tie_word_embeddings: Any = False
    pm_size: Any = 0
    patcher_config: _Patcher | None = None
    encoder_config: _Encoder | None = None
    decoder_config: _Decoder | None = None
    global_config: _Global | None = None


_SECTIONS = {
    "patcher_config": _Patcher, "encoder_config": _Encoder, "decoder_config": _Decoder, "global_config": _Global,
}
# These fields have no bearing on what the model computes at inference.
_IGNORED = set(
    """
    architectures auto_map bos_token_id dtype dropout eos_token_id initializer_range is_decoder max_length
    max_position_embeddings model_type output_attentions output_hidden_states pad_token_id patching_batch_size
    patching_device problem_type realtime_patching return_dict sep_token_id torch_dtype transformers_version use_cache
    _name_or_path original_spec id2label label2id chunk_size_feed_forward seqlen max_seqlen
    """.split()
)
# Each section turns its heads by its own fields; transformers also writes these at the top, and reads them nowhere.
_IGNORED_AT_TOP = _IGNORED | {"head_dim", "rope_parameters", "rope_scaling", "rope_theta"}


@dataclasses.dataclass(frozen=True)
class HfConfig:
    """A checkpoint's config as ours, and what the shapes of its tensors need beside it. hidden: section to the width of
    its feed-forward block. encoder_cross_layers: cross-attentions of the encoder.
    """

    config: Any
    hidden: dict[str, int]
    encoder_cross_layers: int


def read(folder: str | Path, window: int, max_patch_bytes: int) -> HfConfig:
    """Read the config.json of a checkpoint folder; see `hf_blt.read` for the arguments. Raises UserError where there is
    none, or for fields that are not supported, all of them named.
    """
    path = Path(folder) / "config.json"
    try:
        kind = json_files.read(path, dict[str, Any]).get("model_type")
        if kind != "blt":
            raise UserError(f"{path}: model_type is {_brief(kind)}, wanted 'blt'")
        fields = json_files.read(path, _Blt)
    except FileNotFoundError as error:
        raise UserError(f"{folder} is no Hugging Face checkpoint: it has no config.json") from error
    except json_files.Malformed as error:
        raise UserError(f"cannot read {printable(error)}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    blt = msgspec.convert(fields, _Blt)
    sections = {name: getattr(blt, name) or shape() for name, shape in _SECTIONS.items()}
    faults = _unknown_fields("", _Blt, fields, _IGNORED_AT_TOP)
    for name, shape in _SECTIONS.items():
        faults += _unknown_fields(f"{name}.", shape, fields.get(name) or {}, _IGNORED)
    faults += _unsupported_values(blt, sections)
    if faults:
        raise UserError(f"{path} asks for what is not supported: {summary(faults)}")
    config = _config(blt, sections, window, max_patch_bytes)
    try:
        config_lib.check(config)
    except UserError as error:
        raise UserError(f"{path} asks for what is not supported: {error}") from error
    encoder = sections["encoder_config"]
    cross_layers = encoder.num_hidden_layers if encoder.cross_attn_all_layers else 1
    return HfConfig(config, {name: section.hidden for name, section in sections.items()}, cross_layers)


def _unknown_fields(prefix: str, shape: type[msgspec.Struct], fields: dict, ignored: set[str]) -> list[str]:
    """The fields that are set and that nothing here reads, each with its value."""
    unread = {name: fields[name] for name in fields if name not in ignored and name not in shape.__struct_fields__}
    unset = (None, False, [], {})
    return [f"{prefix}{printable(name)} = {_brief(value)}" for name, value in unread.items() if value not in unset]


def _unsupported_values(blt: _Blt, sections: dict[str, Any]) -> list[str]:
    """The values that our model has no equal for, with those that it has."""
    faults = []

    def want(name: str, value: Any, wanted: Any) -> None:
        if value != wanted:
            faults.append(f"{name} = {_brief(value)} (only {wanted!r})")

    for name in ("vocab_size", "patch_in_forward", "patching_mode", "tie_word_embeddings"):
        want(name, getattr(blt, name), getattr(_Blt(), name))
    want("pm_size", blt.pm_size or 0, 0)
    for name, section in sections.items():
        rope_name, rope = _rope(section)
        want(f"{name}.{rope_name}.rope_type", rope.get("rope_type", rope.get("type", "default")), "default")
        want(f"{name}.hidden_act", section.hidden_act, "silu")
        want(f"{name}.tie_word_embeddings", section.tie_word_embeddings, False)
        if name != "global_config":
            want(f"{name}.vocab_size", section.vocab_size, VOCABULARY)
        width, heads, kv_heads = section.hidden_size, section.num_attention_heads, section.kv_heads
        if width % (2 * heads):
            faults.append(f"{name}.num_attention_heads = {heads} (must divide hidden_size = {width} into even widths)")
        elif section.head_dim is not None:
            want(f"{name}.head_dim", section.head_dim, width // heads)
        if name != "global_config":
            want(f"{name}.num_key_value_heads", kv_heads, heads)
        elif heads % kv_heads:
            faults.append(f"{name}.num_key_value_heads = {kv_heads} (must divide num_attention_heads = {heads})")
    _, encoder, decoder, trunk = sections.values()
    want("decoder_config.hidden_size", decoder.hidden_size, encoder.hidden_size)
    want("decoder_config.hidden_size_global", decoder.hidden_size_global, trunk.hidden_size)
    for name in ("decoder_config", "global_config"):
        want(f"{name}.rms_norm_eps", sections[name].rms_norm_eps, encoder.rms_norm_eps)
        want(f"{name}.rope_theta", _theta(sections[name]), _theta(encoder))
    for name in ("encoder_config", "decoder_config"):
        want(f"{name}.cross_attn_k", sections[name].cross_attn_k, blt.cross_attn_k)
    if decoder.num_hidden_layers > 1 and not decoder.cross_attn_all_layers:
        value = decoder.cross_attn_all_layers
        faults.append(f"decoder_config.cross_attn_all_layers = {value} (only true: here every layer reads the context)")
    return faults + [f"{name} = None" for name in ("patching_threshold", "patch_size") if getattr(blt, name) is None]


def _rope(section: _Section) -> tuple[str, _Rope]:
    """The name and value of the field that says how heads turn; the old name stands before the new one, as there."""
    name = "rope_scaling" if section.rope_scaling else "rope_parameters"
    return name, getattr(section, name) or {}


def _theta(section: _Section) -> float:
    default = 10000.0 if isinstance(section, _Patcher) else 500000.0
    return float(_rope(section)[1].get("rope_theta") or section.rope_theta or default)


def _brief(value: Any) -> str:
    return printable(repr(value), 80)


def _config(blt: _Blt, sections: dict[str, Any], window: int, max_patch_bytes: int):
    patcher, encoder, decoder, trunk = sections.values()
    local_window = min(blt.local_attention_window_len or window, window)
    jump = blt.patching_threshold_add or 0.0
    fields = {
        "data.window": window, "model.d_byte": encoder.hidden_size,
        # One multiplier serves encoder, decoder and trunk; narrower blocks are filled up with zeros.
        "model.ffn_multiplier": max(section.hidden / section.hidden_size for section in (encoder, decoder, trunk)),
        "model.rope_theta": _theta(encoder), "model.norm_eps": encoder.rms_norm_eps,
        "model.target_rows": VOCABULARY, "model.cross_residual": 2,
        "model.encoder.layers": encoder.num_hidden_layers, "model.encoder.heads": encoder.num_attention_heads,
        "model.encoder.window": local_window,
        "model.encoder.ngrams": blt.encoder_hash_byte_group_size or _Blt().encoder_hash_byte_group_size,
        "model.encoder.ngram_rows": blt.encoder_hash_byte_group_vocab,
        "model.encoder.ngram_functions": blt.encoder_hash_byte_group_nb_functions,
        "model.entropy_head.weight": 0.0,
        "model.entropy_model.layers": patcher.num_hidden_layers, "model.entropy_model.d_byte": patcher.hidden_size,
        "model.entropy_model.heads": patcher.num_attention_heads,
        "model.entropy_model.window": min(patcher.sliding_window or window, window),
        "model.entropy_model.ffn_multiplier": patcher.hidden / patcher.hidden_size,
        "model.entropy_model.rope_theta": _theta(patcher), "model.entropy_model.norm_eps": patcher.rms_norm_eps,
        "model.pooling.kind": "max_query", "model.pooling.queries": blt.cross_attn_k,
        "model.pooling.heads": encoder.num_attention_heads, "model.pooling.last_state": False,
        "model.trunk.layers": trunk.num_hidden_layers, "model.trunk.d_model": trunk.hidden_size,
        "model.trunk.heads": trunk.num_attention_heads, "model.trunk.kv_heads": trunk.kv_heads,
        "model.trunk.final_norm": False,
        "model.decoder.layers": decoder.num_hidden_layers, "model.decoder.heads": decoder.num_attention_heads,
        "model.decoder.window": local_window,
        "model.decoder.injection": "cross_attention", "model.decoder.context_vectors": blt.cross_attn_k,
        "patching.kind": "entropy_jump" if blt.monotonicity else "entropy_and_jump" if jump else "entropy",
        "patching.patch_bytes": blt.patch_size, "patching.threshold": blt.patching_threshold, "patching.jump": jump,
        "patching.commit_bos": True,
        "patching.max_patch_bytes": blt.max_patch_length or min(max_patch_bytes, window), "patching.capacity": 1.0,
        "trigger.kind": "none",
    }
    return config_lib.from_flat(fields)
