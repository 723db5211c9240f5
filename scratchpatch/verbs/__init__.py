"""The verbs: each reads its flags and calls one function.

The function is imported inside the verb, so that help and wrong usage answer
before JAX is loaded. What a verb prints goes to standard output; whatever the
function itself prints goes to standard error.
"""

from scratchpatch.verbs import bench, checkpoint, data, exchange, plan, trained, training
from scratchpatch.verbs.verb import Verb

_ALL = training.VERBS | trained.VERBS | plan.VERBS | bench.VERBS | checkpoint.VERBS | exchange.VERBS | data.VERBS
# As the help lists them.
VERBS: dict[str, Verb] = {
    name: _ALL[name]
    for name in ("train", "prepare", "entropies", "eval", "calibrate", "audit", "inspect", "generate", "account", "plan", "bench", "report", "checkpoint", "import")
}
