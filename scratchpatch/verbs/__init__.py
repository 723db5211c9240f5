"""The verbs of the command line, one in each file: its help, its flags, and the function that it calls.

That function is imported when the verb runs, so that help and wrong usage answer before JAX is loaded. A verb gives its
result to `Answer`, which prints it on standard output; whatever else is printed goes to standard error.
"""

from scratchpatch.verbs import (
    account,
    audit,
    bench,
    calibrate,
    checkpoint,
    entropies,
    eval,
    generate,
    import_,
    inspect,
    plan,
    prepare,
    report,
    serve,
    tokenizer,
    train,
)

_ORDER = [train, prepare, tokenizer, entropies, eval, calibrate, audit, inspect]
_ORDER += [generate, serve, account, plan, bench, report, checkpoint, import_]
# In the order in which the help lists them.
VERBS = {module.VERB.name: module.VERB for module in _ORDER}
