"""Count parameters, FLOPs and KV-cache bytes per byte by tier, without training.

usage: scratchpatch account --config=FILE [--config.FIELD=VALUE]... [--json]

examples:
  scratchpatch account --config=experiments/scale/sp_1b.py
  scratchpatch account --config=experiments/quickstart.py --config.patching.patch_bytes=8 --json
"""

from scratchpatch.verbs import verb


def _run(values: verb.Flags, answer: verb.Answer) -> None:
    from scratchpatch.accounting.account import account, text

    answer.show(account(values.config), values, text)


VERB = verb.Verb("account", __doc__, _run, (verb.JSON,), config=True, required=("config",))
