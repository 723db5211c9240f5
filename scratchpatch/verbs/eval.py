"""Measure bits per byte, compute per byte and the patch-lag curve of a run.

usage: scratchpatch eval --workdir=DIR [--source=SPEC] [--split=validation] [--override FIELD=VALUE]... [--json]

Every raw byte of every document counts exactly once; gzip, bzip2 and xz of its beginning stand beside it.
The run's own validation split on the unchanged model also makes evaluation.json and report.html. With --step, or
with --max_bytes, they are named after it (report_step_200.html) where the others tell of another step, or of more.
The result is printed first: a folder that cannot be written is a warning. The run may be at work meanwhile.

examples:
  scratchpatch eval --workdir=runs/quickstart
  scratchpatch eval --workdir=runs/quickstart --override trigger.threshold=1.0 --json
  scratchpatch eval --workdir=runs/quickstart --source='text:books/*.txt' --split=all
"""

from scratchpatch import output
from scratchpatch.evaluation import compressors
from scratchpatch.verbs import joining, verb

_FLAGS = (
    verb.WORKDIR, verb.JSON, verb.OVERRIDE, verb.SOURCE, verb.split("validation"), verb.STEP,
    verb.integer("max_bytes", "Read the first so many bytes of each source; none: all."),
    verb.file("output", "Also write the JSON object to this file."),
    verb.integer("compressor_bytes", "Let gzip, bzip2 and xz read so many bytes of the text, the same number from the "
        "beginning of each source; 0: none.", compressors.BYTES, lower_bound=0),
    *joining.FLAGS,
)


def _check(values: verb.Flags) -> None:
    joining.check(values)
    verb.check_writable(values, "output")


def _run(values: verb.Flags, answer: verb.Answer) -> None:
    workdir = verb.existing(values, "workdir")
    with joining.joined(values, answer):
        from scratchpatch.evaluation.evaluate import evaluate
        from scratchpatch.report.evaluation import write_evaluation

        evaluation = evaluate(
            workdir, source=values.source, split=values.split, overrides=dict(values.override), step=values.step,
            max_bytes=values.max_bytes, compressor_bytes=values.compressor_bytes, **joining.place(values),
        )
        answer.show(evaluation.result, values, output.as_table)
        if values.output:
            answer.file(values.output, output.as_json(evaluation.result) + "\n")
        if evaluation.for_the_page:
            write_evaluation(workdir, evaluation.comparisons(), step_named=values.step is not None)


VERB = verb.Verb("eval", __doc__, _run, _FLAGS, _check, required=("workdir",))
