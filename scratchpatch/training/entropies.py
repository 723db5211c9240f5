"""Entropies of the training text, computed once and kept beside its index (data.entropies = True reads them)."""

import hashlib
import json
from pathlib import Path

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from scratchpatch import config as config_lib
from scratchpatch.data import entropies as entropies_lib
from scratchpatch.data.mixture import streams_for
from scratchpatch.data.stream import Stream
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.errors import UserError
from scratchpatch.inference import windows
from scratchpatch.inference.entropies import Entropies
from scratchpatch.model import weights as weights_lib
from scratchpatch.progress import Progress
from scratchpatch.training.start import given_weights

SPLITS = ("train", "validation")
# About so many positions are computed, and then stored, together: what a kill loses at most.
GROUP_POSITIONS = 1 << 18


def compute(config) -> list[dict]:
    """Run the entropy model that a new run of `config` would have over the text that it would read. Position t of a
    stream sees at least half a window of its document. The entropy model inside the train step sees the bytes of its
    row alone: near the start of a row that begins inside a document the two differ. Returns, for each stream: source,
    split, positions, computed (how many of them now), path. Raises UserError where there is no entropy model or no
    weights for it, a bad source, or no room.
    """
    if config.model.entropy_model.layers == 0:
        raise UserError(
            "model.entropy_model.layers = 0 is no separate entropy model; those of an entropy head change as it "
            "trains: name a model.entropy_model"
        )
    one = mesh_lib.make(config_lib.default(), jax.devices()[:1])
    frozen = given_weights(config, {"frozen": weights_lib.shardings(config, one)["frozen"]})["frozen"]
    key = fingerprint(config, frozen)
    model = Entropies(config_lib.entropy_model(config), {"params": frozen["entropy_model"], "thresholds": {}})
    streams = [stream for split in SPLITS for stream, _ in streams_for(config, split)]
    return [_compute(model, stream, entropies_lib.place(stream, key, config.data.cache_dir)) for stream in streams]


def _compute(model: Entropies, stream: Stream, path: Path) -> dict:
    done = {"source": stream.spec, "split": stream.split, "positions": len(stream), "computed": 0, "path": str(path)}
    if entropies_lib.whole(path, stream):
        logging.info("%s is there: %s", stream.summary(), path)
        return done
    groups = _groups(len(stream), model.length)
    with entropies_lib.writer(path) as out:
        # A group that a kill has torn is computed anew.
        ends = [end for _, end in groups if end <= out.written]
        out.keep(ends[-1] if ends else 0)
        done["computed"] = len(stream) - out.written
        with Progress(total=len(stream), first=out.written, label=f"entropies of {stream.spec}", unit="B") as progress:
            for numbers, _ in groups[len(ends) :]:
                values = []
                for rows in model.along(stream, numbers):
                    values.append(rows.answered())
                    progress.advance(len(values[-1]), len(values[-1]))
                out.append(np.concatenate(values))
        out.finish()
    return done


def _groups(positions: int, length: int) -> list[tuple[range, int]]:
    """The numbers of the windows that are computed together, and the position at which each group's answers end."""
    total, size = windows.count(positions, length), max(2 * GROUP_POSITIONS // length, 1)
    groups = [range(begin, min(begin + size, total)) for begin in range(0, total, size)]
    lasts = (windows.window(group[-1], positions, length) for group in groups)
    return [(group, last.first + last.count) for group, last in zip(groups, lasts, strict=True)]


def table(results: list[dict]) -> str:
    """The results of `compute` in words."""
    return "\n".join(
        f"{r['source']} [{r['split']}]: {r['positions']:,} entropies, {r['computed']:,} computed now: {r['path']}"
        for r in results
    )


def fingerprint(config, frozen) -> str:
    """Checksum of an entropy model, its weights (`frozen`) and the config that runs it; the same on every mesh."""
    fields = config_lib.flat(config_lib.entropy_model(config))
    fields = {k: v for k, v in fields.items() if k.startswith("model.") or k in ("data.window", "training.dtype")}
    digest = hashlib.blake2b(json.dumps(fields, sort_keys=True).encode(), digest_size=12)
    for path, array in jax.tree_util.tree_leaves_with_path(frozen):
        digest.update(f"{jax.tree_util.keystr(path)}{array.shape}{array.dtype}".encode())
        if isinstance(array, jax.Array) and not array.is_fully_addressable:
            array = multihost_utils.process_allgather(array, tiled=True)
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()
