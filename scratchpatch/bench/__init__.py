"""Speed and memory on this machine, each number beside its target.

What is compared runs side by side: in one process, in turns, and the ratio is
the median over the turns, so that a busy machine slows both sides alike.
"""

from __future__ import annotations

import importlib

from absl import logging

WHATS = ("train", "data", "linear", "kernels", "start", "peer")


def run(what: str, config=None) -> dict:
    """Measure one of WHATS, or `all` of them.

    Args:
        what: the name.
        config: the experiment to measure; None: the quickstart's.
    Returns:
        {"machine": ..., name: {"title", "numbers", "targets", "notes"}, ...},
        made of what JSON has. numbers: side -> measure -> value.
    Raises:
        UserError: a config that does not hold together, or a bad source.
    """
    from scratchpatch import config as config_lib
    from scratchpatch.bench import machine, quickstart

    config = quickstart.config() if config is None else config
    config_lib.check(config)
    result = {"machine": machine.describe()}
    for name in WHATS if what == "all" else (what,):
        logging.info("bench %s ...", name)
        module = importlib.import_module(f"scratchpatch.bench.{name}")
        result[name] = module.measure(config).as_dict()
    return result


def table(result: dict) -> str:
    """The text of what `run` returned."""
    from scratchpatch.bench import results

    return results.table(result)
