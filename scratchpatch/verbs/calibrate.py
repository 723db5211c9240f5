"""Find the threshold at which a run's model makes patches, or scratchpads, at a wanted rate.

usage: scratchpatch calibrate --workdir=DIR --target_bytes_per_patch=P|--target_scratchpads_per_byte=R \
[--override FIELD=VALUE]... [--json]

Kinds: entropy and entropy_jump, of patches also entropy_and_jump (--override trigger.kind=entropy adds a trigger).
The rate is also measured on text that the sample does not hold: the validation split, or, of text without
splits, the second half of the sample. Rates count a document's BOS as a byte, as eval does.

examples:
  scratchpatch calibrate --workdir=runs/blt_1b --target_bytes_per_patch=6 --source='text:books/*.txt'
  scratchpatch calibrate --workdir=runs/quickstart --target_scratchpads_per_byte=0.2
  scratchpatch calibrate --workdir=runs/quickstart --override patching.kind=entropy --target_bytes_per_patch=8
"""

import math

from scratchpatch.errors import UserError
from scratchpatch.verbs import joining, verb

_FLAGS = (
    verb.WORKDIR, verb.JSON, verb.OVERRIDE, verb.STEP, verb.SOURCE, verb.split("train"),
    verb.number("target_bytes_per_patch", "Mean patch size that patching.threshold shall give."),
    verb.number("target_scratchpads_per_byte", "Rate at which trigger.threshold shall let scratchpads fire."),
    verb.integer("sample_bytes", "Bytes of the sample, about, and of the held-out text; memory grows with them, and "
        "not with the text.", 1 << 18),
    *joining.FLAGS,
)


def _check(values: verb.Flags) -> None:
    joining.check(values)
    patch, rate = values.target_bytes_per_patch, values.target_scratchpads_per_byte
    if (patch is None) == (rate is None):
        raise UserError("give one of --target_bytes_per_patch=6 and --target_scratchpads_per_byte=0.2")
    if patch is not None and not 1 <= patch < math.inf:
        raise UserError(f"--target_bytes_per_patch={patch}: wanted a number of at least 1")
    if rate is not None and not 0 < rate <= 1:
        raise UserError(f"--target_scratchpads_per_byte={rate}: wanted a number above 0, and at most 1")


def _run(values: verb.Flags, answer: verb.Answer) -> None:
    workdir = verb.existing(values, "workdir")
    with joining.joined(values, answer):
        from scratchpatch.evaluation.calibrate import calibrate, table

        result = calibrate(
            workdir, values.target_bytes_per_patch, values.target_scratchpads_per_byte, source=values.source,
            split=values.split, sample_bytes=values.sample_bytes, step=values.step, overrides=dict(values.override),
            **joining.place(values),
        )
        answer.show(result, values, lambda result: table(result, workdir))


VERB = verb.Verb("calibrate", __doc__, _run, _FLAGS, _check, required=("workdir",))
