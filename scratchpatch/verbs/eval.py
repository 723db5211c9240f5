"""Measure bits per byte, compute per byte and the patch-lag curve of a run; or tasks.

usage: scratchpatch eval --workdir=DIR [--source=SPEC] [--split=validation] [--override FIELD=VALUE]... [--json]
       scratchpatch eval --workdir=DIR --task=NAME[:SOURCE][,...] [--option NAME.FIELD=VALUE]... [--limit=N] [--json]

Every raw byte of every document counts exactly once; gzip, bzip2 and xz of its beginning stand beside it.
The run's own validation split on the unchanged model also makes evaluation.json and report.html. With --step, or
with --max_bytes, they are named after it (report_step_200.html) where the others tell of another step, or of more.
The result is printed first: a folder that cannot be written is a warning. The run may be at work meanwhile.
With --task, tasks are measured instead; --task=list tells them and their options. Answers are stored as they come in
WORKDIR/evaluations, so the same command goes on after a stop, and each result has the protocol to repeat it.

examples:
  scratchpatch eval --workdir=runs/quickstart
  scratchpatch eval --workdir=runs/quickstart --override trigger.threshold=1.0 --json
  scratchpatch eval --workdir=runs/quickstart --source='text:books/*.txt' --split=all
"""

from pathlib import Path

from scratchpatch import compilation_cache, output
from scratchpatch.errors import UserError
from scratchpatch.evaluation import compressors
from scratchpatch.verbs import verb

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
    verb.integer("devices", "Spread the weights over so many devices of this machine.", 1),
    verb.integer("compressor_bytes", "Let gzip, bzip2 and xz read so many bytes of the text, the same number from the "
        "beginning of each source; 0: none.", compressors.BYTES, lower_bound=0),
)


def _run(values: verb.Flags, answer: verb.Answer) -> None:
    if values.task == "list":
        from scratchpatch.tasks import names

        answer.line(names.listing())
        return
    workdir = verb.existing(values, "workdir")
    compilation_cache.enable()
    measure = _measure_tasks if values.task else _measure_bits_per_byte
    measure(workdir, values, answer)


def _measure_bits_per_byte(workdir: str, values: verb.Flags, answer: verb.Answer) -> None:
    from scratchpatch.evaluation.evaluate import evaluate
    from scratchpatch.report.evaluation import write_evaluation

    evaluation = evaluate(
        workdir, source=values.source, split=values.split, overrides=dict(values.override), step=values.step,
        max_bytes=values.max_bytes, devices=values.devices, compressor_bytes=values.compressor_bytes,
    )
    answer.show(evaluation.result, values, output.as_table)
    if values.output:
        answer.file(values.output, output.as_json(evaluation.result) + "\n")
    if evaluation.for_the_page:
        write_evaluation(workdir, evaluation.comparisons(), step_named=values.step is not None)


def _measure_tasks(workdir: str, values: verb.Flags, answer: verb.Answer) -> None:
    from scratchpatch.inference.loading import load
    from scratchpatch.tasks import evaluate, names
    from scratchpatch.tasks.task import Setting

    options = [*values.option, *["code.unsafe_execution=true"] * values.unsafe_execution]
    tasks = names.parse(values.task, options)
    lm = load(workdir, values.step, values.devices)
    if values.override:
        lm = lm.override(dict(values.override))
    folder = Path(values.results or Path(workdir) / "evaluations")
    found = evaluate.evaluate(tasks, Setting(lm, Path(workdir), values.split, folder, values.limit))
    result = {"tasks": found}
    answer.show(result, values, evaluate.table)
    if values.output:
        answer.file(values.output, output.as_json(result) + "\n")


def _check(values: verb.Flags) -> None:
    verb.check_writable(values, "output")
    alone = ("source", "max_bytes") if values.task else ("option", "limit", "results", "unsafe_execution")
    given = [flag for flag in alone if values[flag].value not in (None, [], False)]
    if given and values.task:
        raise UserError(f"--{given[0]} is of bits per byte, not of tasks: name the text as --task=NAME:SOURCE")
    if given:
        raise UserError(f"--{given[0]} is of tasks: name them with --task, or leave it out")


VERB = verb.Verb("eval", __doc__, _run, _FLAGS, _check, required=("workdir",))
