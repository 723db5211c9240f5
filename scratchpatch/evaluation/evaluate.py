"""`scratchpatch eval`: numbers of a run, and what its report shows."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from absl import logging

from scratchpatch import output
from scratchpatch.accounting.account import account
from scratchpatch.checkpoints.run_text import own_streams
from scratchpatch.data.mixture import evaluation_stream
from scratchpatch.errors import UserError
from scratchpatch.evaluation import compressors
from scratchpatch.evaluation.bpb import evaluate as evaluate_streams
from scratchpatch.files import replace_text
from scratchpatch.inference.language_model import LanguageModel
from scratchpatch.inference.loading import load
from scratchpatch.inference.windows import Head
from scratchpatch.report.page import write_report
from scratchpatch.report.passage import Passage
from scratchpatch.report.run_folder import evaluation_file, read_evaluation, report_file
from scratchpatch.vocabulary import BOS

# Scratchpad rates of the sweep; the thresholds that give them come from the text's own entropies.
_SWEEP_RATES = (0.03, 0.06, 0.12, 0.2, 0.3, 0.5)
_SWEEP_BYTES = 65536
_PASSAGE_BYTES = 1600
# Thresholds that every entropy, or none, exceeds.
_ALWAYS, _NEVER = -1.0, 1e9


def evaluate(
    workdir,
    source=None,
    split="validation",
    overrides=None,
    step=None,
    max_bytes=None,
    devices=1,
    compressor_bytes=compressors.BYTES,
    tell: Callable[[dict], None] | None = None,
) -> dict:
    """Evaluate a run's checkpoint; see `bpb.evaluate` for what the result holds.

    The run's own validation split on the unchanged model also goes into
    `evaluation.json`, with the same model without scratchpads, a sweep of
    trigger thresholds and a passage of text, and the report is written anew;
    beside those that are there, where they tell of another step than the one
    that is named, or of more of the text (see `_kind`). What cannot be written
    there is a warning. Of two evaluations at once the last one's files stay.

    Args:
      workdir: folder of the run.
      source: SPEC of the documents; the run's own where None, which must be what it trained and validated on.
      split: which documents of the source.
      overrides: dotted config fields to change on the trained weights.
      step: of the checkpoint; the newest where None.
      max_bytes: read the first so many bytes of each source; all where None.
      devices: that the weights are spread over.
      compressor_bytes: of the text that gzip, bzip2 and xz read; 0: they are left out.
      tell: is given the result as soon as it is known, before what is made of it for the report.
    """
    lm = load(workdir, step, devices)
    if overrides:
        lm = lm.override(overrides)
    if source is None:
        streams = [stream for stream, _ in own_streams(workdir, lm.config, split, overrides)]
    else:
        streams = [evaluation_stream(lm.config, source, split)]
    for stream in streams:
        stream.watch()
    names = [stream.spec for stream in streams]
    if max_bytes is not None:
        streams = [Head(stream, max_bytes + 1) for stream in streams]
    about = {"source": ", ".join(names), "split": split, "max_bytes": max_bytes, "overrides": overrides or {}}
    result = evaluate_streams(lm, streams, compressor_bytes) | about
    if tell is not None:
        tell(result)
    if source is None and split == "validation" and not overrides:
        found = {"step": lm.step, "max_bytes": max_bytes, "results": _comparisons(lm, streams, result)}
        found |= {"passage": _passage(lm, streams[0]).to_json(), "account": account(lm.config)}
        kind = _kind(read_evaluation(workdir), lm.step, step is not None, max_bytes)
        path = evaluation_file(workdir, kind)
        with _as_a_warning(path):
            replace_text(path, json.dumps(output.plain(found), indent=1, allow_nan=False) + "\n")
            with _as_a_warning(report_file(workdir, kind)):
                logging.info("report: %s", write_report(workdir, kind=kind))
    return result


@contextlib.contextmanager
def _as_a_warning(path: Path) -> Iterator[None]:
    """That a file cannot be written costs nothing of the result."""
    try:
        yield
    except (OSError, UserError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        logging.warning("%s is not written: %s; the result is none the worse", path, reason)


def _kind(kept: dict, step: int, named: bool, max_bytes: int | None) -> str:
    """What the files of an evaluation are called beside evaluation.json and report.html; '' where it may replace them.

    Args:
      kept: what lies in evaluation.json, {} where there is nothing.
      step, max_bytes: of the new evaluation.
      named: whether the user asked for this step; without that it is the newest, whose report is the run's.
    """
    known = kept.get("max_bytes")
    less = max_bytes is not None and (known is None or known > max_bytes)
    if not kept or not (less or (named and kept.get("step") != step)):
        return ""
    return f"_step_{step}" + (f"_first_{max_bytes}_bytes" if max_bytes is not None else "")


def _comparisons(lm: LanguageModel, streams, result: dict) -> dict:
    scratchpads = lm.config.trigger.kind != "none" and lm.config.patching.kind != "byte"
    without = None
    if scratchpads:
        plain = lm.override({"trigger.kind": "none"})
        without = evaluate_streams(plain, streams, compressor_bytes=0, label="without scratchpads")
    return {"validation": result, "without_scratchpads": without, "sweep": _sweep(lm, streams)}


def _sweep(lm: LanguageModel, streams) -> list[dict]:
    """BPB and cost on the first bytes of the streams: of the model as trained (threshold None), then, where a trigger can
    read entropies, of the entropy trigger at several fixed thresholds on the same weights."""
    parts = [Head(stream, _SWEEP_BYTES // len(streams)) for stream in streams]
    keep = ("bpb", "bytes", "trunk_calls_per_byte", "scratchpads_per_byte", "flops_per_byte")

    def point(threshold, model):
        at = evaluate_streams(model, parts, compressor_bytes=0, label="sweep")
        return {"threshold": threshold, **{name: at[name] for name in keep}}

    found, m = [point(None, lm)], lm.config.model
    without = m.entropy_head.weight == 0 and m.entropy_model.layers == 0
    if without or m.trunk.kind == "none" or lm.config.patching.kind == "byte":
        return found
    free = lm.override({"trigger.kind": "entropy", "trigger.threshold": _NEVER})
    entropy = np.concatenate([p.entropy[~p.commit] for part in parts for p in free.positions(part)])
    share = len(entropy) / sum(map(len, parts))
    rates = [rate for rate in _SWEEP_RATES if rate < share]
    thresholds = sorted((float(np.quantile(entropy, 1 - rate / share)) for rate in rates), reverse=True)
    return found + [point(t, free.override({"trigger.threshold": t})) for t in (_NEVER, *thresholds, _ALWAYS)]


def _passage(lm: LanguageModel, stream) -> Passage:
    """The beginning of a held-out document, with the decisions on it."""
    tokens = stream.read(0, min(len(stream), 64 * _PASSAGE_BYTES))
    edges = np.append(np.flatnonzero(tokens == BOS), len(tokens))
    longest = int(np.argmax(np.diff(edges)))
    data = tokens[edges[longest] + 1 : edges[longest + 1]].astype(np.uint8).tobytes()[:_PASSAGE_BYTES]
    found = lm.segment(data)
    return Passage(data, found.entropy, found.commit, found.scratchpad)
