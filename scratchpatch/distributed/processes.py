"""Several processes of one run: how they find each other, agree, and stop together."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import os
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from absl import logging
from jax._src import distributed
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from scratchpatch.distributed import rendezvous
from scratchpatch.errors import UserError

_DIGEST = 16
# Milliseconds of one wait for another process: between two of them a signal is heard. A process that dies while others
# wait for it ends them by its missing heartbeat.
_WAIT_MILLISECONDS = 2000
# Steps between a process's wish and the one at which all fulfil it.
_AHEAD = 4
T = TypeVar("T")
# How long a new folder may stay hidden from a process that shares the disk, and the time between two looks.
_SHARED_SECONDS, _LOOK_SECONDS = 5, 0.2
# Set by a failure that ends this process: then none of its threads waits for another process.
_leaving = threading.Event()
# Name to how many answers of that name were asked for: the same in every process.
_rounds: collections.Counter[str] = collections.Counter()
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


def first(decide: Callable[[], T], name: str = "first") -> T:
    """What the first process decides, in all of them: they wait for it, as long as it takes.

    The answer goes through the coordinator, so that none of them need read from a shared disk what was just written
    there, and no collective of their devices runs out of patience.

    Args:
      decide: gives a value as JSON has it.
      name: of its kind; those of one kind must be asked in the same order by every process, so by one of its threads.
    Raises:
      UserError: of `decide`, in every process. Whatever else `decide` raises goes on in the first process; in the others
        it is a UserError that says what it was, or a KeyboardInterrupt as it is.
    """
    if jax.process_count() == 1:
        return decide()
    key = _key(name)
    if not is_first():
        return _answer(key, 0)
    return _tell(key, decide)


def gather(find: Callable[[], T], name: str) -> list[T]:
    """What each process finds, by process, in the first one; in the others nothing, and they do not wait.

    Args:
      find: gives a value as JSON has it.
      name: see `first`.
    Raises:
      UserError: see `first`; here of any process's `find`, in that process and in the first one.
    """
    if jax.process_count() == 1:
        return [find()]
    key = _key(name)
    mine = _tell(f"{key}/{jax.process_index()}", find)
    if not is_first():
        return []
    return [mine] + [_answer(f"{key}/{process}", process) for process in range(1, jax.process_count())]


def together(do: Callable[[], T], name: str = "together") -> T:
    """What this process's `do` gives, once all processes have done it.

    Args:
      name: see `first`.
    Raises:
      UserError: of any process's `do`, in every process: none goes on where another one fails. See `first`.
    """
    if jax.process_count() == 1:
        return do()
    found: list[T] = []

    def each() -> list[None]:
        return gather(lambda: found.append(do()), f"{name}, each")

    if not is_first():
        each()
    first(lambda: len(each()), f"{name}, all")
    return found[0]


def give_up() -> None:
    """Let no thread of this process wait for another process any more: Python, as it ends, would wait for that thread."""
    _leaving.set()


def _key(name: str) -> str:
    _rounds[name] += 1
    return f"scratchpatch/{name}/{_rounds[name]}"


def _tell(key: str, find: Callable[[], T]) -> T:
    """What `find` gives or raises, here, and told to whoever asks for the answer of this key."""
    client = distributed.global_state.client
    try:
        found = find()
        text = json.dumps({"found": found})
    except BaseException as error:
        kind = next((kind.__name__ for kind in (UserError, KeyboardInterrupt) if isinstance(error, kind)), type(error).__name__)
        client.key_value_set(key, json.dumps({"kind": kind, "error": str(error)}))
        raise
    client.key_value_set(key, text)
    return found


def _answer(key: str, process: int) -> Any:
    """What `process` found, told by `_tell`. Raises what it raised, see `first`."""
    client, answer = distributed.global_state.client, None
    while answer is None:
        if _leaving.is_set():
            raise UserError(f"this process failed while it waited for process {process}")
        try:
            answer = json.loads(client.blocking_key_value_get(key, _WAIT_MILLISECONDS))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
    if "found" in answer:
        return answer["found"]
    if answer["kind"] == KeyboardInterrupt.__name__:
        raise KeyboardInterrupt
    if answer["kind"] == UserError.__name__:
        raise UserError(answer["error"])
    raise UserError(f"process {process} failed: {answer['kind']}: {answer['error']}; its own output says where")


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

    def see() -> None:
        if not appears(mark, _SHARED_SECONDS):
            raise UserError(
                f"process {jax.process_index()} does not see {folder} as process 0 does: "
                "--workdir must lie on storage that all processes share (training.durable_dir may be another)"
            )

    try:
        together(see)
    finally:
        if is_first():
            mark.unlink()


def appears(path: Path, seconds: float) -> bool:
    """Whether a file of a shared disk that another process wrote is here, or is within so many seconds.

    A network file system may remember for a while that a name was not there, or what its folder held.
    """
    until = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > until:
            return False
        time.sleep(_LOOK_SECONDS)
        # Listing the folder makes such a file system ask its server again.
        with contextlib.suppress(OSError):
            os.listdir(path.parent)
    return True


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
