"""Runs so small that they train in a second, and what one asks of their workdirs."""

from pathlib import Path

import numpy as np

from scratchpatch import config as config_lib

FIELDS = {
    "data.window": 64,
    "model.d_byte": 16,
    "model.encoder.layers": 1,
    "model.encoder.heads": 2,
    "model.encoder.window": 8,
    "model.entropy_head.layers": 1,
    "model.pooling.heads": 2,
    "model.trunk.layers": 1,
    "model.trunk.d_model": 32,
    "model.trunk.heads": 2,
    "model.decoder.layers": 1,
    "model.decoder.heads": 2,
    "model.decoder.window": 8,
    "patching.patch_bytes": 4,
    "patching.max_patch_bytes": 8,
    "trigger.threshold": 5.5,
    "training.batch_rows": 2,
    "training.steps": 16,
    "training.eval_every": 0,
    "training.eval_bytes": 512,
    "training.checkpoint_every": 0,
    "optimizer.learning_rate": 1e-2,
    "optimizer.warmup_steps": 4,
    "mesh.data": 1,
}

_WORDS = b"the cat sat on a mat and saw no dog but was \xc3\xa9t\xc3\xa9 -- so it ran (far) away.\n".split(b" ")


def write_text(folder: Path, files: int = 12, seed: int = 0) -> dict[str, bytes]:
    """Write files of words into `folder`, the last one with bytes that are no UTF-8; name to bytes."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    written = {f"{i:02d}.txt": b" ".join(_WORDS[w] for w in rng.integers(0, len(_WORDS), 120)) for i in range(files)}
    written[f"{files - 1:02d}.txt"] += bytes(range(128, 256)) + b"\xff\xfe\xc3"
    for name, data in written.items():
        (folder / name).write_bytes(data)
    return written


def config(text: Path, fields=None):
    """A checked tiny config that trains on the .txt files of a folder; `fields` maps dotted names to values."""
    made = config_lib.default()
    sources = {"data.sources": ((f"text:{text}/*.txt", 1.0),), "data.cache_dir": str(text.parent / "cache")}
    for name, value in {**FIELDS, **sources, **(fields or {})}.items():
        config_lib.set_field(made, name, value)
    config_lib.check(made)
    return made
