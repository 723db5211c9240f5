"""What more or less compute buys, on fixed weights.

Legend: R rows, L positions of a row, M = L + 1 tokens.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import numpy as np
from absl import logging

from scratchpatch import config as config_lib, timing
from scratchpatch.checkpoints.run_text import agreed_streams
from scratchpatch.distributed import processes
from scratchpatch.errors import UserError
from scratchpatch.evaluation import sweep
from scratchpatch.inference.language_model import LanguageModel
from scratchpatch.inference.windows import Head
from scratchpatch.progress import Progress
from scratchpatch.tasks import texts
from scratchpatch.tasks.task import Setting, Task

# A budget above the rate that it must pay for, as that of a config is by default.
_ROOM = 1.25
_PROMPT_BYTES = 64
TRAINED = "as trained"


@dataclasses.dataclass(frozen=True)
class Compute(Task):
    """Bits per byte against trunk calls, FLOPs and seconds per byte, on the same weights, as a threshold moves.

    --task=compute reads the run's own held-out text; --task=compute:FILE, a glob or a SPEC, other text. The trigger's
    threshold moves where the model has entropies, and the patchifier's where it reads them. Seconds are measured in
    turns after a warm-up, so that a machine that slows down slows all points; a median of them is told. Of scoring: of
    rows as long as the window, with arrays of slots as large as the rate needs, a quarter to spare. Such a budget
    refuses a few scratchpads or commits where a document begins, so its bits per byte stand beside. Of generation: of
    one row from its caches, at temperature 1, without budget.

      compute.bytes      of text at most; of several sources, of each the same share
      compute.seconds    whether seconds are measured at all
      compute.generated  bytes that are generated for each point, in each turn; 0: none
    """

    name: ClassVar[str] = "compute"
    bytes: int = 32768
    seconds: bool = True
    generated: int = 128

    def protocol(self) -> dict[str, Any]:
        if self.bytes < 1 or self.generated < 0:
            raise UserError(
                f"compute.bytes = {self.bytes} must be 1 or more, and compute.generated = {self.generated} 0 or more"
            )
        about = {"bytes": self.bytes, "seconds": self.seconds, "generated": self.generated}
        if self.source:
            about["checksum"] = texts.checksum(texts.read(self.source, "document"))
        return about

    def run(self, setting: Setting) -> dict[str, Any]:
        lm, streams = setting.lm, self._streams(setting)
        dials = sweep.dials(lm)
        if not dials:
            logging.info("compute: this model has no threshold to move, so one point is all")
        results = {"bytes": None, "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}"}
        for dial in dials or [None]:
            models = {TRAINED: (None, lm)}
            for threshold, model in sweep.models(lm, dial, streams) if dial else ():
                models[sweep.label(dial, threshold)] = threshold, model
            points, shown = {}, setting.shown and processes.is_first()
            with Progress(len(models), label=dial or self.label, unit="points", shown=shown) as progress:
                for name, (threshold, model) in models.items():
                    points[name] = sweep.point(model, threshold, streams, progress_label="")
                    progress.advance(1, points[name]["bytes"], points[name]["bpb"])
                    setting.moved()
            results["bytes"] = points[TRAINED].pop("bytes")
            for point in points.values():
                point.pop("bytes", None)
            if self.seconds:
                self._measure_seconds(dial, {name: model for name, (_, model) in models.items()}, points, streams)
                setting.moved()
            results[dial or "model"] = points
        return results

    def _streams(self, setting: Setting) -> list[Head]:
        """The beginnings of the text."""
        if not self.source and setting.workdir is None:
            raise UserError("compute needs text: name it as --task=compute:FILE")
        source = texts.spec(self.source) if self.source else None
        opened = agreed_streams(setting.workdir, setting.lm.config, source, setting.split)
        streams = [stream for stream, _ in opened]
        for stream in streams:
            stream.watch()
        share = max(self.bytes // len(streams), 1) + 1
        return [Head(stream, stream.beginning(share)) for stream in streams]

    def _measure_seconds(
        self, dial: str | None, models: dict[str, LanguageModel], points: dict[str, dict], streams: Sequence[Head]
    ) -> None:
        """Add seconds to the points, each of which has a model of the same name."""
        budgeted = {
            name: model if name == TRAINED else _budgeted(dial, model, points[name]) for name, model in models.items()
        }
        tokens_RM = _rows(next(iter(models.values())), streams)
        byte_count = _byte_count(next(iter(models.values())), tokens_RM)
        times = timing.take_turns({name: functools.partial(m.look, tokens_RM) for name, m in budgeted.items()}, 0.0)
        for name, model in budgeted.items():
            same = points[name] if model is models[name] else sweep.point(model, None, streams, progress_label="")
            seconds = np.asarray(times.seconds[name]) / byte_count
            points[name] |= {
                "scoring_bpb": same["bpb"],
                "scoring_trunk_calls_per_byte": same["trunk_calls_per_byte"],
                "scoring_slots_per_byte": sum(config_lib.slots(model.config)) * len(tokens_RM) / byte_count,
                "scoring_seconds_per_byte": float(np.median(seconds)),
                "scoring_seconds_range": float(np.ptp(seconds)),
            }
        if self.generated:
            prompt = _prompt(next(iter(models.values())), streams[0])
            writers = {name: _Writer(model, prompt, self.generated) for name, model in models.items()}
            times = timing.turns({name: writer.write for name, writer in writers.items()}, 0.0)
            for name, writer in writers.items():
                points[name] |= {
                    "generation_seconds_per_byte": times.median(name),
                    "generation_trunk_calls_per_byte": writer.calls / writer.size if writer.size else None,
                }


def _budgeted(dial: str, model: LanguageModel, point: dict[str, Any]) -> LanguageModel:
    """The model with arrays of slots that are about as large as it needs on this text."""
    threshold = {dial: config_lib.get(model.config, dial)}
    if dial == sweep.TRIGGER:
        rate = point["scratchpads_per_byte"]
        # A capacity of 0 would stand for the config's own.
        changes = {"trigger.capacity": min(_ROOM * rate, 1.0)} if rate else {"trigger.kind": "none"}
        return model.override(threshold | changes)
    if model.config.patching.commit_bos or not point["bytes_per_patch"]:
        return model
    least = 1 / model.config.data.window
    return model.override(threshold | {"patching.capacity": min(max(_ROOM / point["bytes_per_patch"], least), 1.0)})


def _rows(lm: LanguageModel, streams: Sequence[Head]) -> np.ndarray:
    """int32 [R, M]: one call's rows as long as the window, of the text over and over."""
    length = lm.config.data.window
    text = np.concatenate([stream.read(0, len(stream)) for stream in streams])
    return np.resize(text, (lm.rows_per_call(length), length + 1)).astype(np.int32)


def _byte_count(lm: LanguageModel, tokens_RM: np.ndarray) -> int:
    """Bytes of rows that are read: as many as positions; of tokens those that they stand for, a BOS counted as one."""
    if lm.token_bytes is None:
        return tokens_RM.size - len(tokens_RM)
    return int(np.maximum(lm.token_bytes[tokens_RM[:, :-1]], 1).sum())


def _prompt(lm: LanguageModel, stream: Head) -> bytes:
    return lm.text(stream.read(0, min(len(stream), 4 * _PROMPT_BYTES)))[:_PROMPT_BYTES]


class _Writer:
    """Goes on from a prompt, again and again the same way. size, calls: bytes of one output, and trunk calls of it."""

    def __init__(self, lm: LanguageModel, prompt: bytes, max_bytes: int):
        self._stream: Callable = functools.partial(lm.stream, prompt, max_bytes=max_bytes, temperature=1.0)
        self.size = self.calls = 0

    def write(self) -> float:
        """Seconds per byte."""
        began = time.perf_counter()
        written = list(self._stream())
        seconds = time.perf_counter() - began
        self.size, self.calls = len(written), sum(byte.commit or byte.scratchpad for byte in written)
        return seconds / max(len(written), 1)
