"""Show a text's entropy, patches and scratchpads as a run's model sees them.

usage: scratchpatch inspect --workdir=DIR --text=FILE [--html=OUT] [--override FIELD=VALUE]...

examples:
  scratchpatch inspect --workdir=runs/quickstart --text=README.md
  scratchpatch inspect --workdir=runs/quickstart --text=README.md --html=passage.html
"""

import os
from functools import partial

from scratchpatch import compilation_cache
from scratchpatch.verbs import verb

_FLAGS = (
    verb.WORKDIR, verb.OVERRIDE, verb.file("text", "File whose bytes are shown."),
    verb.file("html", "Also write a self-contained page to this file."),
)


def _run(values: verb.Flags, answer: verb.Answer) -> None:
    workdir = verb.existing(values, "workdir")
    text = verb.existing(values, "text", os.path.isfile)
    compilation_cache.enable()
    from scratchpatch.report.inspect import inspect

    inspect(workdir, text, html=values.html, overrides=dict(values.override), tell=answer.line)


_CHECK = partial(verb.check_writable, flag="html")
VERB = verb.Verb("inspect", __doc__, _run, _FLAGS, _CHECK, required=("workdir", "text"))
