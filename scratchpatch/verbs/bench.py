"""Measure speed and memory on this machine.

usage: scratchpatch bench [train|data|linear|kernels|start|peer|decode|all] [--config=FILE] [--config.FIELD=VALUE]...
                          [--json]

train, peer: a training step against others; data: windows into the loop;
linear: cost against window length; kernels: each attention backend that runs here;
start: time to the first step; decode: continuing prompts, with minutes of a large model.

examples:
  scratchpatch bench
  scratchpatch bench data --config=experiments/quickstart.py --json
"""

from scratchpatch import compilation_cache
from scratchpatch.verbs import verb

_WHAT = ("train", "data", "linear", "kernels", "start", "peer", "decode", "all")
_FLAGS = (verb.JSON, verb.choice("what", "What to measure; may be given without --what=.", "all", enum_values=_WHAT))


def _run(values: verb.Flags, answer: verb.Answer) -> None:
    compilation_cache.enable()
    from scratchpatch.bench import run, text

    answer.show(run(values.what, values.config), values, text)


VERB = verb.Verb("bench", __doc__, _run, _FLAGS, config=True, positional=("what",))
