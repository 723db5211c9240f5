"""Entropies of the training text, computed once and kept beside its index."""

from __future__ import annotations

import jax
import numpy as np
from absl import logging

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
from scratchpatch.training import fingerprint, initial

SPLITS = ("train", "validation")
# Positions of a part, about: what a kill loses at most.
PART = 1 << 18


def compute(config) -> list[dict]:
    """Run the entropy model that a new run of `config` would have over the text that it would read.

    Position t of a stream sees at least half a window of its document, by the
    overlapping windows of `LanguageModel.positions`. The entropy model inside
    the train step sees the bytes of its row alone: near the start of a row that
    begins inside a document the two differ.

    Returns:
      For each stream: source, split, positions, computed (how many of them
      now), path.
    Raises:
      UserError: no entropy model or no weights for it, a bad source, no room.
    """
    if config.model.entropy_model.layers == 0:
        raise UserError(
            "model.entropy_model.layers = 0 is no separate entropy model; those of an entropy head change as it trains: "
            "name a model.entropy_model"
        )
    one = mesh_lib.make(config_lib.default(), jax.devices()[:1])
    frozen = initial.load(config, {"frozen": weights_lib.shardings(config, one)["frozen"]})["frozen"]
    key = fingerprint.of(config, frozen)
    weights = {"params": frozen["entropy_model"], "thresholds": {}}
    model = Entropies(config_lib.entropy_model(config), weights)
    streams = [stream for split in SPLITS for stream, _ in streams_for(config, split)]
    return [_compute(model, stream, entropies_lib.place(stream, key, config.data.cache_dir)) for stream in streams]


def _compute(model: Entropies, stream: Stream, path) -> dict:
    found = {"source": stream.spec, "split": stream.split, "positions": len(stream), "computed": 0, "path": str(path)}
    if entropies_lib.whole(path, stream):
        logging.info("%s is there: %s", stream.summary(), path)
        return found
    parts = _parts(len(stream), model.length)
    with entropies_lib.writer(path) as out:
        # A part that a kill has torn is computed anew.
        ends = [end for _, end in parts if end <= out.written]
        out.keep(ends[-1] if ends else 0)
        found["computed"] = len(stream) - out.written
        with Progress(total=len(stream), first=out.written, label=f"entropies of {stream.spec}", unit="B") as progress:
            for chosen, _ in parts[len(ends) :]:
                values = []
                for rows in model.along(stream, chosen):
                    values.append(rows.answered())
                    progress.advance(len(values[-1]), len(values[-1]))
                out.append(np.concatenate(values))
        out.finish()
    return found


def _parts(positions: int, length: int) -> list[tuple[range, int]]:
    """Windows in groups, and the position at which each group's answers end."""
    total, size = windows.count(positions, length), max(2 * PART // length, 1)
    groups = [range(k, min(k + size, total)) for k in range(0, total, size)]
    ends = (windows.window(group[-1], positions, length) for group in groups)
    return [(group, w.first + w.count) for group, w in zip(groups, ends, strict=True)]


def table(results: list[dict]) -> str:
    """The results in words."""
    return "\n".join(
        f"{r['source']} [{r['split']}]: {r['positions']:,} entropies, {r['computed']:,} computed now: {r['path']}"
        for r in results
    )
