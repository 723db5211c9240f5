"""Audits that passed on this machine: the same model and the same code are audited once, not at every start.

Whether a model is causal depends on its config and code, not on what it has learnt, so a start after a preemption, and
the other seeds of a study, take the verdict that is stored. `scratchpatch audit` always runs.
"""

import contextlib
import datetime
import json
from pathlib import Path
from typing import TypedDict

from absl import logging

from scratchpatch import config as config_lib, files, json_files, places
from scratchpatch.distributed import processes
from scratchpatch.errors import UserError
from scratchpatch.evaluation import audit as audit_lib, made_of

# Fields on which no stage of a model depends, beside those that may change while it trains (`config.Field.later`).
_NEITHER = ("seed", "data.sources", "data.validation_sources", "data.tokenizer", "evaluation.")


class _Verdict(TypedDict):
    passed: str
    on: str


def audit(config, weights) -> tuple[bool, str]:
    """(whether the model passes, a text that says so), from a verdict that is stored, else by `audit.audit`; a pass is
    stored then. All processes must call this.
    """
    # The first process alone reads and writes it.
    place = _place(config) if processes.is_first() else None
    if verdict := processes.first(lambda: _stored(place)):
        text = f"{verdict['passed']} on {verdict['on']}, with this model and code, and is not run again"
        return True, f"{text}: `scratchpatch audit` does"
    report = audit_lib.audit(config, weights)
    if report.ok and place:
        verdict = _Verdict(passed=report.summary(), on=f"{datetime.date.today()}")
        # A folder that cannot be written has been named: see `compilation_cache`.
        with contextlib.suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            files.replace_text(place, json.dumps(verdict))
    return report.ok, report.text()


def _place(config) -> Path | None:
    """Where the verdict about a model lies; None without a cache folder."""
    flat, free = config_lib.flat(config), {field.name for field in config_lib.FIELDS if field.later}
    fields = {name: value for name, value in flat.items() if name not in free and not name.startswith(_NEITHER)}
    try:
        return places.cache_folder() / "audits" / f"{json_files.seal(made_of.program() | {'config': fields})}.json"
    except UserError:
        return None


def _stored(place: Path | None) -> _Verdict | None:
    if place is None:
        return None
    try:
        return json_files.read(place, _Verdict)
    except FileNotFoundError:
        return None
    except (OSError, json_files.Malformed) as error:
        logging.warning("%s is no verdict of an audit, so the model is audited anew: %s", place, error)
        return None
