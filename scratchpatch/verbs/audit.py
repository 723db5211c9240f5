"""Prove that a config's model does not see the bytes that it predicts.

usage: scratchpatch audit --config=FILE [--config.FIELD=VALUE]... [--json]

Weights are random. Exit code 1: a leak, named by position and stage.

examples:
  scratchpatch audit --config=experiments/quickstart.py
  scratchpatch audit --config=experiments/quickstart.py --config.patching.kind=entropy --json
"""

from scratchpatch.errors import UserError
from scratchpatch.verbs import joining, verb


def _run(values: verb.Flags, answer: verb.Answer) -> None:
    with joining.joined(values, answer):
        from scratchpatch.evaluation.audit import audit_config

        report = audit_config(values.config, **joining.place(values))
        answer.show(report.as_dict(), values, lambda _: report.text())
    if not report.ok:
        raise UserError("the causality audit failed: the model sees bytes that it must predict")


VERB = verb.Verb(
    "audit", __doc__, _run, (verb.JSON, *joining.FLAGS), joining.check, config=True, required=("config",)
)
