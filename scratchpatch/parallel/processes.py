"""Several processes of one run: how they find each other, agree, and stop together."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
from absl import logging
from jax._src import distributed
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from scratchpatch.errors import UserError
from scratchpatch.parallel import rendezvous

_DIGEST = 16
_ANSWER, _LONGEST_ERROR = 16384, 2000
# Steps between a process's wish and the one at which all fulfil it.
_AHEAD = 4
T = TypeVar("T")
# Seconds that processes wait for the slowest to compile, or to write.
_MEETING_SECONDS = 1800
# Seconds: a process that is silent for so long ends all of them; and one that
# fails waits so long for the others to leave with it.
_PATIENCE = {"heartbeat_timeout_seconds": 30, "shutdown_timeout_seconds": 15}


def start(distributed: str) -> None:
    """Join the other processes of the run. Call it before anything asks JAX for devices.

    Args:
      distributed: 'none': one process; 'auto': as JAX finds them (TPU slices, SLURM), or
        as a JobSet's pods are told (see `rendezvous.of_jobset`); else see `rendezvous.parse`.
    Raises:
      UserError: nothing to be found, with what was looked for, or the coordinator does not answer.
    """
    if distributed == "none":
        return
    named = rendezvous.of_jobset(os.environ) if distributed == "auto" else rendezvous.parse(distributed)
    # Of CPUs; other devices have collectives of their own.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        if named is None:
            jax.distributed.initialize(**_PATIENCE)
        else:
            # A JobSet is found; JAX would look for it once more.
            look = {"cluster_detection_method": "deactivate"} if distributed == "auto" else {}
            jax.distributed.initialize(named.coordinator, named.processes, named.process, **look, **_PATIENCE)
    except (OSError, RuntimeError, ValueError) as error:
        # JAX asks for an address first: without one it found no cluster.
        if named is None and "coordinator_address should be defined" in str(error):
            looked_for = rendezvous.looked_for(os.environ)
            raise UserError(
                f"--distributed=auto found no cluster: {looked_for}; "
                "--distributed=HOST:PORT,PROCESS,PROCESSES names the processes one by one"
            ) from error
        raise UserError(f"--distributed={distributed}: {str(error).splitlines()[0]}") from error
    if jax.process_index() > 0:
        # One voice is enough; what goes wrong here is still said.
        logging.set_verbosity(logging.WARNING)


def is_first() -> bool:
    """Whether this process speaks, and writes what the run needs once."""
    return jax.process_index() == 0


def agree(what: dict[str, str]) -> None:
    """Compare texts that must be the same in every process.

    Args:
      what: name, for the message, to text.
    Raises:
      UserError: in every process, naming a process that differs from the first, and in what.
    """
    if jax.process_count() == 1:
        return
    digests = [hashlib.blake2b(text.encode(), digest_size=_DIGEST).digest() for text in what.values()]
    mine = np.frombuffer(b"".join(digests), np.uint8).reshape(len(what), _DIGEST)
    all_PKd = np.asarray(multihost_utils.process_allgather(mine))
    unlike_PK = (all_PKd != all_PKd[0]).any(axis=-1)
    if unlike_PK.any():
        process = int(unlike_PK.any(axis=1).argmax())
        names = [name for name, unlike in zip(what, unlike_PK[process], strict=True) if unlike]
        own = f"; here, in process {jax.process_index()}: " + "; ".join(f"{name} {what[name][:80]}" for name in names)
        raise UserError(f"process {process} differs from process 0 in {', '.join(names)}{own}: start all of them alike")


def first(decide: Callable[[], T]) -> T:
    """What the first process decides, in all of them: they wait for it.

    decide: gives a value as JSON has it.

    Raises:
      UserError: of `decide`, in every process.
    """
    if jax.process_count() == 1:
        return decide()
    answer = {}
    if is_first():
        try:
            answer = {"found": decide()}
        except UserError as error:
            answer = {"error": str(error)[:_LONGEST_ERROR]}
    text = np.frombuffer(json.dumps(answer).encode(), np.uint8)
    padded = np.zeros(_ANSWER, np.uint8)
    padded[: len(text)] = text
    text = np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes()
    answer = json.loads(text.rstrip(b"\0"))
    if "error" in answer:
        raise UserError(answer["error"])
    return answer["found"]


def share(folder: Path) -> None:
    """See that all processes write into one folder, and not each on a disk of its own.

    Raises:
      UserError: in every process, naming one that does not see what the first one wrote.
    """
    if jax.process_count() == 1:
        return

    def leave() -> str:
        mark = folder / f"shared.{secrets.token_hex(8)}"
        try:
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        except OSError as error:
            raise UserError(f"cannot write {mark}: {error.strerror}; use another --workdir") from error
        return mark.name

    mark = folder / first(leave)
    seen_P = np.asarray(multihost_utils.process_allgather(np.bool_(mark.exists())))
    if is_first():
        mark.unlink()
    if not seen_P.all():
        raise UserError(
            f"process {int(seen_P.argmin())} does not see {folder} as process 0 does: "
            "--workdir must lie on storage that all processes share (training.durable_dir may be another)"
        )


def local(tree, mesh):
    """Arrays as every process has them whole on its own first device; of one process, as they are."""
    if jax.process_count() == 1:
        return tree
    everywhere = NamedSharding(mesh, PartitionSpec())
    whole = jax.jit(lambda x: x, out_shardings=everywhere)(tree)
    return jax.tree.map(lambda x: x.addressable_data(0), whole)


def meet(where: str) -> None:
    """Wait until all processes are here, once for each place: by the coordinator, which a slow start does not hurry as
    collectives between CPUs do."""
    if jax.process_count() > 1:
        distributed.global_state.client.wait_at_barrier(f"scratchpatch: {where}", _MEETING_SECONDS * 1000)


def stops_at(step: int) -> bool:
    """Whether a preemption notice (SIGTERM) reached any process, and this is the step at which all of them stop."""
    return multihost_utils.reached_preemption_sync_point(step)


def reached(event: str, step: int, asked: bool) -> bool:
    """Whether this is the step at which all processes do what one of them was asked for.

    Called by all of them after each step, in the same order. They are never more than two steps apart, because each
    reads the sums of a step before it goes on to the next but one; so a step that one process names is still ahead of all.

    Args:
      event: a name that each event has for itself.
      step: steps done.
      asked: this process was.
    """
    client, key = distributed.global_state.client, f"scratchpatch: {event}"
    if asked:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # another process was asked, too
            client.key_value_set(key, str(step + _AHEAD))
    try:
        return step == int(client.key_value_try_get(key))
    except jax.errors.JaxRuntimeError:  # nobody was
        return False


def any_of(names: list[str], mine: str) -> str:
    """Of the processes' own answers the first in the order of `names`; '' where none has one of them."""
    if jax.process_count() == 1:
        return mine
    number = np.int32(names.index(mine) if mine in names else len(names))
    found = int(np.asarray(multihost_utils.process_allgather(number)).min())
    return names[found] if found < len(names) else ""
