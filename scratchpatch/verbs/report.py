"""Write a run's report.html anew, with a baseline beside it if one is named.

usage: scratchpatch report --workdir=DIR [--baseline=DIR]

examples:
  scratchpatch report --workdir=runs/quickstart --baseline=runs/plain
"""

from scratchpatch import compilation_cache
from scratchpatch.verbs import verb

_FLAGS = (verb.WORKDIR, verb.folder("baseline", "Folder of a run to compare with."))


def _run(values: verb.Flags, answer: verb.Answer) -> None:
    workdir = verb.existing(values, "workdir")
    baseline = verb.existing(values, "baseline") if values.baseline else None
    compilation_cache.enable()
    from scratchpatch.report.page import write_report

    answer.line(str(write_report(workdir, baseline=baseline)))


VERB = verb.Verb("report", __doc__, _run, _FLAGS, required=("workdir",))
