"""evaluation.json and the page of an evaluation, written beside those that a run has."""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import logging

from scratchpatch import output
from scratchpatch.distributed import processes
from scratchpatch.errors import UserError
from scratchpatch.evaluation.answered import Question, evaluation_file, report_file
from scratchpatch.files import replace_text
from scratchpatch.report import tasks
from scratchpatch.report.page import write_report
from scratchpatch.report.passage import Passage
from scratchpatch.report.run_folder import read_evaluation


def write_evaluation(
    workdir: str | os.PathLike, comparisons: dict, step_named: bool, asked: Question | None = None
) -> None:
    """Write evaluation.json (`evaluate.Evaluation.comparisons`), and report.html anew. Both get names of their own
    where those that are there tell of another step than the one that the user named, or of more of the text. With the
    question that was asked, the file answers it from then on. What cannot be written is a warning. Of two evaluations
    at once the last one's files stay. Of several processes the first one writes.
    """
    if not processes.is_first():
        return
    suffix = _suffix(read_evaluation(workdir), comparisons["step"], step_named, comparisons["max_bytes"])
    document = output.plain(comparisons | {"passage": Passage(**comparisons["passage"]).to_json()})
    # A run at work may have removed the step that was asked for, so that a newer one answered.
    if asked and asked.step == comparisons["step"]:
        document["made_of"] = asked.made_of
    path = evaluation_file(workdir, suffix)
    with _failure_is_a_warning(path):
        replace_text(path, json.dumps(document, indent=1, allow_nan=False) + "\n")
        with _failure_is_a_warning(report_file(workdir, suffix)):
            logging.info("report: %s", write_report(workdir, suffix=suffix))


def write_tasks(folder: str | os.PathLike, answers: Sequence[dict], workdir: str | os.PathLike | None) -> None:
    """Write the figures of what `tasks.evaluate` returned into a folder; and the page of a run anew, where it is one
    (None: it is not). What cannot be written is a warning. Of several processes the first one writes.
    """
    if not processes.is_first():
        return
    for answer in answers:
        for name, svg in tasks.files(answer).items():
            path = Path(folder) / f"{name}.svg"
            with _failure_is_a_warning(path):
                replace_text(path, svg)
    if workdir is not None:
        with _failure_is_a_warning(report_file(workdir)):
            logging.info("report: %s", write_report(workdir))


@contextlib.contextmanager
def _failure_is_a_warning(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, UserError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        logging.warning("%s is not written: %s; the result is none the worse", path, reason)


def _suffix(present: dict, step: int, step_named: bool, max_bytes: int | None) -> str:
    """What an evaluation's files are called beside evaluation.json (`present`); '' where they may replace it."""
    read_before = present.get("max_bytes")
    reads_less = max_bytes is not None and (read_before is None or read_before > max_bytes)
    if not present or not (reads_less or (step_named and present.get("step") != step)):
        return ""
    return f"_step_{step}" + (f"_first_{max_bytes}_bytes" if max_bytes is not None else "")
