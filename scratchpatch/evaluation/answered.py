"""Questions that `scratchpatch eval` has answered before: evaluation.json says what its numbers were made of.

Made without the model, so that a second `eval` of a run does not have to load it.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from scratchpatch import config as config_lib, json_files
from scratchpatch.checkpoints import format, run_text
from scratchpatch.checkpoints.workdir import load_config
from scratchpatch.errors import UserError
from scratchpatch.evaluation import made_of as made_of_lib


class Question(NamedTuple):
    """step: of the checkpoint that is asked. made_of: a checksum of all that the answer depends on."""

    step: int
    made_of: str


class _Answered(TypedDict):
    made_of: str
    results: dict[str, Any]


def question(
    workdir: str | os.PathLike, step: int | None, max_bytes: int | None, compressor_bytes: int
) -> Question | None:
    """What `eval` asks of a run's checkpoint, the newest one or that of `step`, about the run's own validation split.

    The answer depends on the files of the checkpoint, the config, the text and how much of it is read, on the code of
    this package, on versions of others, and on the kind of device. None where the checkpoint is missing, or cannot be
    told from others. Raises UserError where the text is not the run's any more.
    """
    folder = _checkpoints(workdir)
    step = max(folder.steps(), default=None) if step is None else step
    if step is None:
        return None
    try:
        about = format.read_about(folder.location(step))
        config = load_config(workdir)
    except (format.NotWhole, UserError):
        # Whoever loads the model says what is wrong, or finds another checkpoint.
        return None
    made_of = {
        "files": about["files"],
        "config": config_lib.flat(config),
        "text": [(stream.spec, stream.checksum) for stream, _ in run_text.own_streams(workdir, config, "validation")],
        "read": [max_bytes, compressor_bytes],
        **made_of_lib.program(),
    }
    return Question(step, json_files.seal(made_of))


def result(workdir: str | os.PathLike, asked: Question) -> dict[str, Any] | None:
    """The result that evaluation.json holds, where it answers this very question, and its page is there too, and the
    checkpoint is whole: its files are read for that here alone, since who loads the model reads them anyway.
    """
    try:
        document = json_files.read(evaluation_file(workdir), _Answered)
    except (OSError, json_files.Malformed):
        return None
    validation = document["results"].get("validation")
    same = document["made_of"] == asked.made_of and report_file(workdir).exists()
    if not same or not isinstance(validation, dict):
        return None
    path = _checkpoints(workdir).location(asked.step)
    try:
        format.check_files(path, format.read_about(path))
    except format.NotWhole:
        return None
    return validation


def _checkpoints(workdir: str | os.PathLike) -> format.StepFolder:
    return format.StepFolder(Path(workdir) / "checkpoints")


def evaluation_file(workdir: str | os.PathLike, suffix: str = "") -> Path:
    """Where an evaluation lies; suffix: '' of the run's own, else what tells it from that, such as '_step_200'."""
    return Path(workdir) / f"evaluation{suffix}.json"


def report_file(workdir: str | os.PathLike, suffix: str = "") -> Path:
    """Where the page of an evaluation lies."""
    return Path(workdir) / f"report{suffix}.html"
