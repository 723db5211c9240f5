"""`scratchpatch eval`: the numbers of a run, and what its page shows beside them. Nothing is written here."""

import dataclasses
from typing import Any

import numpy as np

from scratchpatch import config as config_lib
from scratchpatch.accounting.account import account
from scratchpatch.checkpoints.run_text import agreed_streams
from scratchpatch.evaluation import bpb, compressors, sweep
from scratchpatch.inference.language_model import LanguageModel
from scratchpatch.inference.loading import load
from scratchpatch.inference.windows import Head

_SWEEP_BYTES = 65536
_PASSAGE_BYTES = 1600


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a model is measured on, and with which changes.

    Attributes:
      source: SPEC of the documents; the run's own where None, which must be what it trained and validated on.
      split: which of its documents.
      max_bytes: read the first so many bytes of each source; all where None.
      overrides: see `LanguageModel.override`.
    """

    source: str | None = None
    split: str = "validation"
    max_bytes: int | None = None
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A model, with its overrides, measured on text.

    Attributes:
      result: what `bpb.measure` says; also source, split, max_bytes and overrides.
      for_the_page: the text is the run's own validation split and the model is as trained.
    """

    lm: LanguageModel
    streams: list
    result: dict[str, Any]
    for_the_page: bool

    def comparisons(self) -> dict[str, Any]:
        """What the run's page shows. The text is read again several times for it. All processes must call this.

        Returns:
          step, max_bytes; results: validation (the result), without_scratchpads (on the same weights; None where the
          model has none) and sweep (see `_sweep`); passage: see `_passage`; account: see `accounting.account`.
        """
        lm, without = self.lm, None
        if lm.config.trigger.kind != "none" and lm.config.patching.kind != "byte":
            plain = lm.override({"trigger.kind": "none"})
            without = bpb.measure(plain, self.streams, compressor_bytes=0, label="without scratchpads")
        by_threshold = _sweep(lm, self.streams)
        return {
            "step": lm.step,
            "max_bytes": self.result["max_bytes"],
            "results": {"validation": self.result, "without_scratchpads": without, "sweep": by_threshold},
            "passage": _passage(lm, self.streams[0]),
            "account": account(lm.config),
        }


def evaluate(
    workdir,
    source=None,
    split="validation",
    overrides=None,
    step=None,
    max_bytes=None,
    devices=None,
    mesh=None,
    compressor_bytes=compressors.BYTES,
) -> Evaluation:
    """Measure a run's checkpoint on text. All processes must call this.

    Args:
      source, split, overrides, max_bytes: see `Asked`.
      step, devices, mesh: see `load`.
      compressor_bytes: of the text that gzip, bzip2 and xz read; 0: they are left out.
    Raises:
      UserError: no such checkpoint, text that cannot be read, or overrides that need other parameters.
    """
    asked = Asked(source, split, max_bytes, overrides or {})
    return measure(load(workdir, step, devices, mesh), workdir, asked, compressor_bytes)


def measure(lm: LanguageModel, workdir, asked: Asked, compressor_bytes: int) -> Evaluation:
    """Measure a model of a run on text; see `evaluate`."""
    if asked.overrides:
        lm = lm.override(asked.overrides)
    streams = agreed_streams(workdir, lm.config, asked.source, asked.split, asked.overrides)
    streams = [stream for stream, _ in streams]
    for stream in streams:
        stream.watch()
    about = dataclasses.asdict(asked) | {"source": ", ".join(stream.spec for stream in streams)}
    if asked.max_bytes is not None:
        streams = [Head(stream, stream.beginning(asked.max_bytes + 1)) for stream in streams]
    result = bpb.measure(lm, streams, compressor_bytes) | about
    for_the_page = asked.source is None and asked.split == "validation" and not asked.overrides
    return Evaluation(lm, streams, result, for_the_page)


def _sweep(lm: LanguageModel, streams: list) -> list[dict[str, Any]]:
    """BPB and cost on the first bytes of the streams, by threshold of the trigger, see `evaluation.sweep`. The model as
    trained comes first (threshold None).
    """
    beginnings = [Head(stream, _SWEEP_BYTES // len(streams)) for stream in streams]
    models = sweep.models(lm, sweep.TRIGGER, beginnings) if sweep.TRIGGER in sweep.dials(lm) else ()
    return [sweep.point(model, threshold, beginnings) for threshold, model in ((None, lm), *models)]


def _passage(lm: LanguageModel, stream) -> dict[str, Any]:
    """`data`, the beginning of a held-out document; and entropy, commit and scratchpad after each of its bytes."""
    bos = config_lib.vocabulary(lm.config).bos
    tokens = stream.read(0, min(len(stream), 64 * _PASSAGE_BYTES))
    edges = np.append(np.flatnonzero(tokens == bos), len(tokens))
    longest = int(np.argmax(np.diff(edges)))
    data = lm.text(tokens[edges[longest] + 1 : edges[longest + 1]])[:_PASSAGE_BYTES]
    return {"data": data, **dataclasses.asdict(lm.segment(data))}
