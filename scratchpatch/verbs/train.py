"""Train a model, or go on with a run that was stopped.

usage: scratchpatch train --config=FILE --workdir=DIR [--config.FIELD=VALUE]... [--distributed=auto]

The folder gets config.json, metrics.jsonl, tensorboard/, checkpoints/ and report.html.
The same command after a stop, however it came, goes on from the newest checkpoint;
a folder of another config is refused with the difference. training.steps and optimizer.* may change, from then on.
Ctrl-C, SIGHUP and SIGTERM save and stop; a second Ctrl-C stops at once. SIGUSR1 saves and goes on.
One that stands still for minutes, with a signal to stop, ends unsaved: exit code 128 + the signal's number.
A full disk stops it only where a checkpoint cannot be written; the same command goes on once there is room.
--config.training.continue_from=RUN@STEP branches off another run's checkpoint into a new folder.

examples:
  scratchpatch train --config=experiments/quickstart.py --workdir=runs/quickstart
  scratchpatch train --config=experiments/quickstart.py --workdir=runs/books \
--config.data.sources="(('text:books/*.txt', 1.0),)"
"""

import sys
import time
from pathlib import Path

from absl import logging

from scratchpatch.errors import UserError
from scratchpatch.training.notices import Notices, Stopped
from scratchpatch.verbs import joining, verb

_FLAGS = (
    verb.WORKDIR,
    joining.DISTRIBUTED,
    verb.integer("stopped_code", "Exit code of a run that SIGTERM, SIGINT or SIGHUP stopped before its last step. "
        "Schedulers that must start it again want another than 0.", 0, lower_bound=0, upper_bound=125),
)


def _check(values: verb.Flags) -> None:
    joining.check(values)
    if "://" in values.workdir:
        raise UserError(f"--workdir={values.workdir}: wanted a folder; a run renames folders, appends to files and "
            "locks them, which a bucket does not do: mount a file system that all hosts share (NFS, Filestore; see "
            "launch/README.md)")


def _run(values: verb.Flags, answer: verb.Answer) -> int:
    began, finished = time.monotonic(), False
    with Notices(several=values.distributed != "none") as notices:
        try:
            with joining.joined(values, answer, saves=True):
                from scratchpatch.distributed import processes
                from scratchpatch.training.loop import train

                finished = train(values.config, values.workdir, began, notices)
                page = Path(values.workdir) / "report.html"
                # The page is missing where the run was killed after its last checkpoint.
                if finished and (notices.first_step or not processes.first(page.exists)):
                    processes.first(lambda: _write_report(values.workdir))
        except Stopped:
            print(f"scratchpatch: stopped by {notices.stopped_by} before anything began", file=sys.stderr)
    return 0 if finished else values.stopped_code


def _write_report(workdir: str) -> None:
    """Write the page of a finished run. Where that fails the run is still finished, and a warning names the command."""
    from scratchpatch.report.page import write_report
    from scratchpatch.report.run_folder import command

    try:
        logging.info("report: %s", write_report(workdir))
    except Exception as error:
        reason = str(error) if isinstance(error, (OSError, UserError)) else f"{type(error).__name__}: {error}"
        logging.warning("no report (%s); the run is finished, and `%s` makes it", reason, command("report", workdir))


VERB = verb.Verb("train", __doc__, _run, _FLAGS, _check, config=True, required=("config", "workdir"))
