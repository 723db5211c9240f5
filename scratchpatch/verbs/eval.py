"""Measure bits per byte, compute per byte and the patch-lag curve of a run; or tasks.

usage: scratchpatch eval --workdir=DIR [--source=SPEC] [--split=validation] [--override FIELD=VALUE]... [--json]
       scratchpatch eval --workdir=DIR --task=NAME[:SOURCE][,...] [--option NAME.FIELD=VALUE]... [--limit=N] [--json]
       scratchpatch eval --workdir=DIR --follow [--poll_seconds=30] [--json]

Every raw byte of every document counts exactly once; gzip, bzip2 and xz of its beginning stand beside it.
The run's own validation split on the unchanged model also makes evaluation.json and report.html. Asked again, while
weights, text and code are the same, evaluation.json answers. With --step, or with --max_bytes, the files are named
after it (report_step_200.html) where the others tell of another step, or of more.
The result is printed first: a folder that cannot be written is a warning. The run may be at work meanwhile.
With --task, tasks are measured instead; --task=list tells them and their options. Answers are stored as they come in
WORKDIR/evaluations, so the same command goes on after a stop, and each result has the protocol to repeat it; figures
lie beside them, and report.html shows those of the newest step.
--follow appends a line per checkpoint to evaluations/follow.jsonl below the run (of other text, or with overrides, to a
file of their own there), prints it, and leaves out steps that have one. It ends after the run's last step.
--distributed and --mesh spread weights and rows over the devices of several processes, of which the first one answers.

examples:
  scratchpatch eval --workdir=runs/quickstart
  scratchpatch eval --workdir=runs/quickstart --override trigger.threshold=1.0 --json
  scratchpatch eval --workdir=runs/quickstart --source='text:books/*.txt' --split=all
  scratchpatch eval --workdir=runs/quickstart --follow
"""

import math
import signal
import sys
from pathlib import Path
from typing import Any

from absl import logging

from scratchpatch import output
from scratchpatch.errors import UserError
from scratchpatch.evaluation import compressors
from scratchpatch.verbs import joining, verb

_FLAGS = (
    verb.WORKDIR, verb.JSON, verb.OVERRIDE, verb.SOURCE, verb.split("validation"), verb.STEP,
    verb.integer("max_bytes", "Read the first so many bytes of each source; none: all."),
    verb.file("output", "Also write the JSON object to this file."),
    verb.text("task", "NAME[:SOURCE],...: measure these tasks; list: tell which there are, and their options."),
    verb.repeated("option", "NAME.FIELD=VALUE: an option of a task, such as choice.shots=5"),
    verb.integer("limit", "Ask only so many items of each task, evenly spaced; none: all."),
    verb.switch("unsafe_execution", "Run programs of the task code without namespaces, where the machine has none: "
        "they can then do what you can."),
    verb.folder("results", "Folder of the tasks' answers and results; none: WORKDIR/evaluations."),
    verb.integer("compressor_bytes", "Let gzip, bzip2 and xz read so many bytes of the text, the same number from the "
        "beginning of each source; 0: none.", compressors.BYTES, lower_bound=0),
    verb.switch("follow", "Measure each checkpoint of a run at work as it appears, until its last step."),
    verb.number("poll_seconds", "With --follow: seconds between two looks for a checkpoint.", 30.0, lower_bound=0.1),
    verb.integer("stopped_code", "With --follow: exit code where SIGTERM, SIGINT or SIGHUP ended it before the run's "
        "last step.", 0, lower_bound=0, upper_bound=125),
    *joining.FLAGS,
)


def _run(values: verb.Flags, answer: verb.Answer) -> int | None:
    if values.task == "list":
        from scratchpatch.tasks import names

        answer.line(names.listing())
        return None
    workdir = verb.existing(values, "workdir")
    if values.follow:
        return _follow(workdir, values, answer)
    with joining.joined(values, answer):
        measure = _measure_tasks if values.task else _measure_bits_per_byte
        measure(workdir, values, answer)
    return None


def _measure_bits_per_byte(workdir: str, values: verb.Flags, answer: verb.Answer) -> None:
    from scratchpatch.evaluation import answered

    own = not values.source and not values.override and values.split == "validation"
    alone = values.distributed == "none" and values.devices is None and values.mesh is None
    asked = None
    if own and alone:
        asked = answered.question(workdir, values.step, values.max_bytes, values.compressor_bytes)
    if asked and (result := answered.result(workdir, asked)):
        _give(result, values, answer)
        path = answered.evaluation_file(workdir)
        logging.info("answered before, in %s; remove that file to measure again", path)
        return
    from scratchpatch.evaluation.evaluate import evaluate
    from scratchpatch.report.evaluation import write_evaluation

    evaluation = evaluate(
        workdir, source=values.source, split=values.split, overrides=dict(values.override), step=values.step,
        max_bytes=values.max_bytes, compressor_bytes=values.compressor_bytes, **joining.place(values),
    )
    _give(evaluation.result, values, answer)
    if evaluation.for_the_page:
        write_evaluation(workdir, evaluation.comparisons(), step_named=values.step is not None, asked=asked)


def _give(result: dict[str, Any], values: verb.Flags, answer: verb.Answer) -> None:
    answer.show(result, values, output.as_table)
    if values.output:
        answer.file(values.output, output.as_json(result) + "\n")


def _measure_tasks(workdir: str, values: verb.Flags, answer: verb.Answer) -> None:
    from scratchpatch.evaluation.scores import FOLDER
    from scratchpatch.inference.loading import load
    from scratchpatch.report.evaluation import write_tasks
    from scratchpatch.tasks import evaluate, names
    from scratchpatch.tasks.task import Setting

    options = [*values.option, *["code.unsafe_execution=true"] * values.unsafe_execution]
    tasks = names.parse(values.task, options)
    lm = load(workdir, values.step, **joining.place(values))
    if values.override:
        lm = lm.override(dict(values.override))
    own = Path(workdir) / FOLDER
    folder = Path(values.results or own)
    found = evaluate.evaluate(tasks, Setting(lm, Path(workdir), values.split, folder, values.limit))
    result = {"tasks": found}
    answer.show(result, values, evaluate.table)
    if values.output:
        answer.file(values.output, output.as_json(result) + "\n")
    is_a_run = folder == own and (Path(workdir) / "checkpoints").is_dir()
    write_tasks(folder, found, workdir if is_a_run else None)


def _follow(workdir: str, values: verb.Flags, answer: verb.Answer) -> int:
    try:
        with joining.interrupted_by(signal.SIGTERM, signal.SIGHUP), joining.joined(values, answer):
            from scratchpatch.evaluation.evaluate import Asked
            from scratchpatch.evaluation.follow import follow
            from scratchpatch.evaluation.scores import text

            asked = Asked(values.source, values.split, values.max_bytes, dict(values.override))
            for line in follow(workdir, asked, values.poll_seconds, **joining.place(values)):
                answer.show(line, values, text)
    except KeyboardInterrupt:
        print("scratchpatch: stopped; the same command goes on from there", file=sys.stderr)
        return values.stopped_code
    return 0


def _check(values: verb.Flags) -> None:
    if not values.workdir and values.task != "list":
        raise UserError("eval needs --workdir=DIR; --task=list alone needs none")
    joining.check(values)
    verb.check_writable(values, "output")
    for flag in ("step", "output", "task") if values.follow else ("poll_seconds", "stopped_code"):
        if values[flag].value != values[flag].default:
            raise UserError(f"--{flag} goes with eval {'without' if values.follow else 'with'} --follow alone")
    if not math.isfinite(values.poll_seconds):
        raise UserError(f"--poll_seconds={values.poll_seconds}: wanted a finite number of seconds")
    alone = ("source", "max_bytes") if values.task else ("option", "limit", "results", "unsafe_execution")
    given = [flag for flag in alone if values[flag].value not in (None, [], False)]
    if given and values.task:
        raise UserError(f"--{given[0]} is of bits per byte, not of tasks: name the text as --task=NAME:SOURCE")
    if given:
        raise UserError(f"--{given[0]} is of tasks: name them with --task, or leave it out")


VERB = verb.Verb("eval", __doc__, _run, _FLAGS, _check)
