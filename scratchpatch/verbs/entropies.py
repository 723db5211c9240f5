"""Compute the entropies of a config's text once, for data.entropies = True.

usage: scratchpatch entropies --config=FILE [--config.FIELD=VALUE]... [--json]

The model is the run in model.entropy_model.workdir (or training.init_from's). One float32 per byte goes beside
the stream's index (data.cache_dir), under a name made of text and model: what is there is not computed again.
The same command after a stop goes on where it was. An entropy here sees text before the training row, so near
a row's start it may differ from that of the model inside the step. Evaluation always runs the model itself.

examples:
  scratchpatch entropies --config=experiments/blt/small.py
  scratchpatch train --config=experiments/blt/small.py --config.data.entropies --workdir=runs/blt
"""

from scratchpatch import compilation_cache
from scratchpatch.verbs import verb


def _run(values: verb.Flags, answer: verb.Answer) -> None:
    compilation_cache.enable()
    from scratchpatch.data.anchor import anchored
    from scratchpatch.training.entropies import compute, table

    answer.show({"streams": compute(anchored(values.config))}, values, lambda result: table(result["streams"]))


VERB = verb.Verb("entropies", __doc__, _run, (verb.JSON,), config=True, required=("config",))
