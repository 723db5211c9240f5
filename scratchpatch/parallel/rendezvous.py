"""Where the processes of a run meet, as the command line names it. Free of JAX, so that wrong usage answers at once."""

from __future__ import annotations

import dataclasses
import re

from scratchpatch.errors import UserError

_EXPLICIT = re.compile(r"([^,\s]+:\d+),(\d+),(\d+)")


@dataclasses.dataclass(frozen=True)
class Rendezvous:
    """coordinator: HOST:PORT where process 0 listens. process: which this one is. processes: how many there are."""

    coordinator: str
    process: int
    processes: int


def parse(distributed: str) -> Rendezvous | None:
    """What 'HOST:PORT,PROCESS,PROCESSES' names; None of 'none' and 'auto'.

    Raises:
      UserError: none of these, or a process beyond their number.
    """
    if distributed in ("none", "auto"):
        return None
    found = _EXPLICIT.fullmatch(distributed)
    if not found:
        raise UserError(
            f"--distributed={distributed}: wanted none, auto or HOST:PORT,PROCESS,PROCESSES, such as 10.0.0.2:8476,0,4"
        )
    process, processes = int(found[2]), int(found[3])
    if process >= processes:
        raise UserError(f"--distributed={distributed}: processes count from 0, so the last of {processes} is {processes - 1}")
    return Rendezvous(found[1], process, processes)
