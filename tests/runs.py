"""Runs so small that they train in seconds, and what one asks of their workdirs."""

import contextlib
import json
import shutil
from pathlib import Path

import jax
import numpy as np
from jax._src import compiler

from scratchpatch import config as config_lib
from scratchpatch.checkpoints import workdir as workdir_lib
from scratchpatch.checkpoints.reader import CheckpointReader
from scratchpatch.checkpoints.writer import Checkpoints
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.evaluation import audited
from scratchpatch.model import weights as weights_lib
from scratchpatch.training.step import Trainer

# A model that compiles in seconds, and little text for it.
SMALL = {
    "data.held_out": 0.2,
    "model.d_byte": 16,
    "model.encoder.layers": 1,
    "model.encoder.heads": 2,
    # Layers here take a quarter of a step's compilation; the step of written numbers, end to end, has one.
    "model.entropy_head.layers": 0,
    "model.pooling.heads": 2,
    "model.trunk.layers": 1,
    "model.trunk.d_model": 32,
    "model.trunk.heads": 2,
    "model.decoder.layers": 1,
    "model.decoder.heads": 2,
    "training.batch_rows": 2,
}
FIELDS = SMALL | {
    "data.window": 64,
    "model.encoder.window": 8,
    "model.decoder.window": 8,
    "patching.patch_bytes": 4,
    "patching.max_patch_bytes": 8,
    "trigger.threshold": 5.5,
    "training.steps": 12,
    "training.eval_every": 0,
    "training.eval_bytes": 512,
    "training.checkpoint_every": 0,
    "optimizer.learning_rate": 1e-2,
    "optimizer.warmup_steps": 4,
    "mesh.data": 1,
}

# Few layers, because tracing them is most of a start.
SHALLOW = {
    "model.encoder.layers": 0,
    "model.entropy_head.layers": 0,
    "model.decoder.layers": 0,
    "model.pooling.kind": "mean",
}

# A model of bytes alone: no patches, scratchpads or entropies.
BYTE_LEVEL = {"patching.kind": "byte", "trigger.kind": "none", "model.entropy_head.weight": 0.0}
# A model such as entropies are taken from, and one whose patches end by those of a model like it.
ENTROPY_MODEL = {
    "model.trunk.kind": "none",
    "model.entropy_head.weight": 0.0,
    "model.decoder.layers": 0,
    "trigger.kind": "none",
}
WITH_ENTROPY_MODEL = {
    "model.entropy_head.weight": 0.0,
    "model.entropy_model.layers": 1,
    "model.entropy_model.d_byte": 16,
    "model.entropy_model.heads": 2,
    "model.entropy_model.window": 8,
    "patching.kind": "entropy",
}

_WORDS = b"the cat sat on a mat and saw no dog but was \xc3\xa9t\xc3\xa9 -- so it ran (far) away.\n".split(b" ")
# What no two runs share.
_TIMES = ("bytes_per_second", "flops_per_second", "mfu", "goodput")


def write_text(folder: Path, files: int = 12, seed: int = 0) -> dict[str, bytes]:
    """Write files of words into `folder`, the last one with bytes that are no UTF-8; name to bytes."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    written = {f"{i:02d}.txt": b" ".join(_WORDS[w] for w in rng.integers(0, len(_WORDS), 120)) for i in range(files)}
    written[f"{files - 1:02d}.txt"] += bytes(range(128, 256)) + b"\xff\xfe\xc3"
    for name, data in written.items():
        (folder / name).write_bytes(data)
    return written


def config(folder: Path, fields=None):
    """A checked tiny config that trains on folder/text, which is written where it is missing.

    `fields` maps dotted names to values.
    """
    if not (folder / "text").exists():
        write_text(folder / "text")
    made = config_lib.default()
    sources = {"data.sources": ((f"text:{folder}/text/*.txt", 1.0),), "data.cache_dir": str(folder / "cache")}
    for name, value in {**FIELDS, **sources, **(fields or {})}.items():
        config_lib.set_field(made, name, value)
    config_lib.check(made)
    return made


def untrained(folder, fields=None, weights=None):
    """(config, workdir) of a run that was saved at step 0; `weights` gives them for a config, random where None."""
    made, workdir = config(folder, fields), folder / "run"
    workdir_lib.guard_workdir(workdir, made)
    checkpoints = Checkpoints(workdir / "checkpoints", made, 1)
    checkpoints.save(0, weights(made) if weights else weights_lib.random(made, 0))
    checkpoints.close()
    return made, workdir


def write_config(path: Path, made) -> str:
    """An experiment file that returns a config; its path."""
    values = json.loads(json.dumps(config_lib.flat(made)))
    source = f"from scratchpatch import config\n\n\ndef get_config():\n    return config.from_flat({values!r})\n"
    path.write_text(source)
    return str(path)


def leave_out_audit(setattr=setattr) -> None:
    """Let training take its model for causal: the audit is a third of a start, and has tests of its own."""
    setattr(audited, "audit", lambda config, weights: (True, "the causality audit passed"))


@contextlib.contextmanager
def compilations():
    """A list that grows by one for every program that is compiled, or taken from the cache on the disk, inside."""
    found, compile = [], compiler.compile_or_get_cached

    def counted(*arguments, **more):
        found.append(None)
        return compile(*arguments, **more)

    compiler.compile_or_get_cached = counted
    try:
        yield found
    finally:
        compiler.compile_or_get_cached = compile


def lines(workdir: Path) -> list[dict]:
    """The lines of metrics.jsonl without those fields that measure time."""
    read = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in _TIMES} for line in read]


def stored_steps(workdir: Path) -> list[int]:
    return CheckpointReader(workdir / "checkpoints").steps()


def state(workdir: Path, made, step: int):
    """The whole state of a checkpoint, on the host."""
    abstract = Trainer(made, mesh_lib.make(made, jax.devices()[:1])).abstract_state()
    return jax.device_get(CheckpointReader(workdir / "checkpoints").restore(step, abstract).state)


def rewind(workdir: Path, step: int, into: Path) -> Path:
    """A copy of a run as it was when the checkpoint of `step` was its newest."""
    shutil.copytree(workdir, into)
    for newer in stored_steps(into):
        if newer > step:
            shutil.rmtree(into / "checkpoints" / str(newer))
    return into
