"""Small BLT checkpoint folders in the layout of Hugging Face, with random weights."""

import json

import numpy as np
from safetensors.numpy import save_file

from scratchpatch.interop import hf_blt, hf_config

LAYERS = {"num_attention_heads": 2, "rms_norm_eps": 1e-5}


def settings(k: int = 2, functions: int = 1, all_layers: bool = False, wide: bool = False, **top) -> dict:
    """A config.json; `wide`: the trunk is wider than the joined queries."""
    d, big = 16, 48 if wide else 16 * k
    cross = {"vocab_size": 260, "cross_attn_k": k, "hidden_size": d, "hidden_size_global": big}
    return {
        "model_type": "blt",
        "architectures": ["BltForCausalLM"],
        "vocab_size": 260,
        "patch_size": 4,
        "patching_mode": "entropy",
        "patching_threshold": 5.0,
        "local_attention_window_len": 24,
        "cross_attn_k": k,
        "encoder_hash_byte_group_size": [3, 4, 5],
        "encoder_hash_byte_group_vocab": 1009,
        "encoder_hash_byte_group_nb_functions": functions,
        "encoder_config": LAYERS
        | cross
        | {"num_hidden_layers": 2, "cross_attn_all_layers": all_layers, "intermediate_size": 42},
        "decoder_config": LAYERS | cross | {"num_hidden_layers": 2, "cross_attn_all_layers": True, "intermediate_size": 40},
        "global_config": LAYERS
        | {"hidden_size": big, "num_hidden_layers": 2, "intermediate_size": 64, "num_attention_heads": 4}
        | {"num_key_value_heads": 2},
        "patcher_config": LAYERS
        | {"vocab_size": 260, "hidden_size": 24, "num_hidden_layers": 2, "intermediate_size": 32, "sliding_window": 20}
        | {"max_position_embeddings": 512},
    } | top


def write(folder, config: dict, seed: int = 0, change=None) -> None:
    """Write a checkpoint; `change` edits the dict of tensors first."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    shapes = hf_blt.shapes(hf_config.read(folder, 128, 128))
    rng = np.random.default_rng(seed)

    def draw(name, shape):
        if name.endswith("norm.weight"):
            return (1 + 0.1 * rng.standard_normal(shape)).astype(np.float32)
        # Loud heads, so that entropies differ from byte to byte.
        scale = 4 if "lm_head" in name else 1
        return (scale * rng.standard_normal(shape) * shape[-1] ** -0.5).astype(np.float32)

    found = {name: draw(name, shape) for name, shape in sorted(shapes.items())}
    if change:
        change(found)
    save_file(found, folder / "model.safetensors", {"format": "pt"})


def documents(rows: int, length: int, seed: int = 0) -> np.ndarray:
    """int32 [rows, length] of our tokens, each a BOS and bytes that repeat, so that n-grams do."""
    rng = np.random.default_rng(seed)
    words = [rng.integers(0, 256, rng.integers(2, 7)) for _ in range(12)]
    found = []
    for _ in range(rows):
        text = np.concatenate([words[i] for i in rng.integers(0, len(words), length)])
        found.append(np.concatenate([[256], text[: length - 1]]))
    return np.array(found, np.int32)
