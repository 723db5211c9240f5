"""How the processes of one command find each other, and what they share: their flags, their answer and their end."""

import contextlib
import re
import signal
from collections.abc import Iterator
from typing import Any

from scratchpatch import compilation_cache
from scratchpatch.config_fields import FIELDS
from scratchpatch.config_flags import Parser
from scratchpatch.distributed import heartbeat, rendezvous
from scratchpatch.errors import UserError
from scratchpatch.verbs import verb

_AXES = tuple(field.name.partition(".")[2] for field in FIELDS if field.name.startswith("mesh."))
# These may differ between the processes of one command.
_OWN = {"distributed"}


def parse_mesh(text: str) -> dict[str, int]:
    """Axis to size of 'fsdp:4,data:2'; -1 is what the others leave. Raises UserError."""
    axes: dict[str, int] = {}
    for part in text.split(","):
        match = re.fullmatch(r"(\w+):(-1|[1-9]\d{0,8})", part.strip())
        if not match:
            example = "wanted AXIS:SIZE,AXIS:SIZE, such as fsdp:4,data:2; one size may be -1, the devices that are left"
            raise UserError(f"--mesh={text}: {example}")
        if match[1] not in _AXES:
            raise UserError(f"--mesh={text}: no axis {match[1]!r}; axes: {', '.join(_AXES)}")
        if match[1] in axes:
            raise UserError(f"--mesh={text}: {match[1]} has two sizes: leave one out")
        axes[match[1]] = int(match[2])
    if list(axes.values()).count(-1) > 1:
        raise UserError(f"--mesh={text}: two sizes are -1: name one of them")
    return axes


DISTRIBUTED = verb.text("distributed", "none: one process. auto: as the cluster tells (TPU slice, SLURM, Kubernetes "
    "JobSet; see launch/README.md). HOST:PORT,PROCESS,PROCESSES: named, the first process listens there.", "none")
# What verbs with a trained model share.
FLAGS = (
    DISTRIBUTED,
    verb.integer("devices", "Spread the weights over so many devices; none: one, or those of all processes."),
    verb.parsed("mesh", "Axes of the mesh that the weights are spread over, AXIS:SIZE,..., such as fsdp:4,data:2; one "
        "size may be -1, the devices that are left. none: all are fsdp.", parser=Parser(parse_mesh)),
)


def check(values: verb.Flags) -> None:
    """Raise UserError where --distributed is none of what it can be."""
    rendezvous.parse(values.distributed)


def place(values: verb.Flags) -> dict[str, Any]:
    """Where the weights go, as `inference.loading.load` takes it."""
    return {"devices": values.devices, "mesh": values.mesh}


@contextlib.contextmanager
def interrupted_by(*numbers: int) -> Iterator[None]:
    """Let these signals raise KeyboardInterrupt inside, as SIGINT does; one that is ignored stays so."""
    before = {}
    with contextlib.suppress(ValueError):  # only the main thread can listen
        for number in numbers:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def joined(values: verb.Flags, answer: verb.Answer, saves: bool = False) -> Iterator[None]:
    """Join the other processes of the command for what is done inside, which all of them do alike; the first one alone
    answers. An exception in one of them ends all, with its message.

    saves: SIGTERM lets what is inside save and leave, as training does; else it ends the process, as it does alone.
    """
    heartbeat.start()
    compilation_cache.enable()
    from scratchpatch.distributed import processes

    if values.distributed != "none":
        # The collectives of CPUs tell there whom they found.
        answer.alone()
    processes.start(values.distributed, tells_preemption=saves)
    if not processes.is_first():
        answer.mute()
    with processes.last_words():
        if "devices" in values:
            flags = {name: repr(values[name].value) for name in values if name not in _OWN}
            processes.agree({f"--{name}": text for name, text in flags.items()})
        yield
        # Whoever leaves first waits for the others a few seconds alone.
        processes.meet("the end of the command")
