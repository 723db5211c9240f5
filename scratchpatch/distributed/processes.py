"""Several processes of one run: how they find each other, agree, tell of a failure, and stop together."""

import collections
import contextlib
import contextvars
import hashlib
import json
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from absl import logging
from jax._src import distributed
from jax.experimental import multihost_utils

from scratchpatch import output
from scratchpatch.distributed import rendezvous
from scratchpatch.errors import UserError

T = TypeVar("T")
# A process that is silent for so long ends all of them; one that fails waits so long for the others to leave with it.
_PATIENCE = {"heartbeat_timeout_seconds": 30, "shutdown_timeout_seconds": 15}
# One wait for another process: between two of them a signal is heard, and a failure of another thread of this process.
_WAIT_MILLISECONDS = 2000
# How long processes wait for the slowest one to compile, or to write.
_MEETING_MILLISECONDS = 1_800_000
# How long a new folder may stay hidden from a process that shares the disk, and the time between two looks.
_SHARED_SECONDS, _LOOK_SECONDS = 5, 0.2
# Between two looks for another process's last words; how long a process that heard them may take to end by itself, as
# one does that failed alike; and how much later it goes than the failed one, which the user shall see go first.
_LISTEN_SECONDS, _GRACE_SECONDS, _AFTER_SECONDS = 1.0, 10.0, 2.0
# Steps between a process's wish and the one at which all fulfil it.
_AHEAD_STEPS = 4
_DIGEST_BYTES = 16
# Set by a failure that ends this process: then none of its threads waits for another process.
_leaving = threading.Event()
# See `alone`.
_alone = contextvars.ContextVar("this process does it alone", default=False)
# Name to how many answers of that name were asked for: the same in every process.
_rounds: collections.Counter[str] = collections.Counter()


def start(distributed: str, tells_preemption: bool = True) -> None:
    """Join the other processes of the run (see `rendezvous`). Call it before anything asks JAX for devices.

    tells_preemption: JAX takes SIGTERM for itself, and tells all processes where to stop (see `training.notices`);
      False: SIGTERM stays what it is. Raises UserError where nothing is found, with what was looked for, or the
      coordinator does not answer.
    """
    if distributed == "none":
        return
    jax.config.update("jax_enable_preemption_service", tells_preemption)
    auto = distributed == "auto"
    named = rendezvous.of_jobset(os.environ) if auto else rendezvous.parse(distributed)
    # This is for CPUs; other devices have collectives of their own.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        if named is None:
            jax.distributed.initialize(**_PATIENCE)
        else:
            # Where a JobSet is found, JAX would look for a cluster once more.
            look = {"cluster_detection_method": "deactivate"} if auto else {}
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
    """Whether this is the process that logs, and that writes what the run needs once."""
    return _alone.get() or jax.process_index() == 0


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """What this process does inside, on devices of its own, it does without the others: it is the first one, and
    nobody is asked, told or waited for. For what one process does for all in `first`.
    """
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def _several() -> bool:
    """Whether other processes take part in what this one does now."""
    return jax.process_count() > 1 and not _alone.get()


def agree(what: dict[str, str]) -> None:
    """Raise UserError in every process unless these texts (by names for the message) are the same in all of them."""
    if not _several():
        return
    digests = [hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).digest() for text in what.values()]
    mine = np.frombuffer(b"".join(digests), np.uint8).reshape(len(what), _DIGEST_BYTES)
    all_PKd = np.asarray(multihost_utils.process_allgather(mine))
    unlike_PK = (all_PKd != all_PKd[0]).any(axis=-1)
    if unlike_PK.any():
        process = int(unlike_PK.any(axis=1).argmax())
        names = [name for name, unlike in zip(what, unlike_PK[process], strict=True) if unlike]
        own = f"; here, in process {jax.process_index()}: " + "; ".join(f"{name} {what[name][:80]}" for name in names)
        raise UserError(f"process {process} differs from process 0 in {', '.join(names)}{own}: start all of them alike")


def first(decide: Callable[[], T], name: str = "first") -> T:
    """What the first process decides, in all of them: they wait for it, as long as it takes. decide: gives a value as
    JSON has it. name: of the kind of question; those of one kind must be asked in the same order by every process, so
    by one of its threads. A UserError of `decide` is raised in every process. Whatever else `decide` raises goes on in
    the first process; in the others it is a UserError that says what it was, or a KeyboardInterrupt as it is.
    """
    if not _several():
        return decide()
    key = _key(name)
    return _tell(key, decide) if is_first() else _answer(key, 0)


def gather(find: Callable[[], T], name: str) -> list[T]:
    """What each process finds, by process, in the first one; in the others nothing, and they do not wait. See `first`;
    an error of any process's `find` is raised there and in the first one.
    """
    if not _several():
        return [find()]
    key = _key(name)
    mine = _tell(f"{key}/{jax.process_index()}", find)
    if not is_first():
        return []
    return [mine] + [_answer(f"{key}/{process}", process) for process in range(1, jax.process_count())]


def together(do: Callable[[], T], name: str = "together") -> T:
    """What this process's `do` gives, once all processes have done it; see `first` for `name` and errors."""
    if not _several():
        return do()
    results: list[T] = []

    def each() -> list[None]:
        return gather(lambda: results.append(do()), f"{name}, each")

    if not is_first():
        each()
    first(lambda: len(each()), f"{name}, all")
    return results[0]


def _key(name: str) -> str:
    _rounds[name] += 1
    return f"scratchpatch/{name}/{_rounds[name]}"


def _tell(key: str, find: Callable[[], T]) -> T:
    """What `find` gives or raises, here, and told to whoever asks for the answer of this key."""
    client = distributed.global_state.client
    try:
        result = find()
        text = json.dumps({"found": result})
    except BaseException as error:
        passed_on = (UserError, KeyboardInterrupt)
        kind = next((kind.__name__ for kind in passed_on if isinstance(error, kind)), type(error).__name__)
        client.key_value_set(key, json.dumps({"kind": kind, "error": str(error)}))
        raise
    client.key_value_set(key, text)
    return result


def _answer(key: str, process: int) -> Any:
    """What `process` found, told by `_tell`. Raises what it raised, see `first`."""
    client, answer = distributed.global_state.client, None
    while answer is None:
        if _leaving.is_set():
            raise UserError(f"this process failed while it waited for process {process}")
        try:
            answer = json.loads(client.blocking_key_value_get(key, _WAIT_MILLISECONDS))
        except jax.errors.JaxRuntimeError as error:
            # A process that dies while others wait for it ends them by its missing heartbeat.
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
    if "found" in answer:
        return answer["found"]
    if answer["kind"] == KeyboardInterrupt.__name__:
        raise KeyboardInterrupt
    if answer["kind"] == UserError.__name__:
        raise UserError(answer["error"])
    raise UserError(f"process {process} failed: {answer['kind']}: {answer['error']}; its own output says where")


@contextlib.contextmanager
def last_words() -> Iterator[None]:
    """Tell the other processes of an exception that leaves this block, and end this one where another tells of one. A
    process that waits in a collective cannot be interrupted: it is ended with exit code 1 and the other's message.
    """
    if jax.process_count() == 1:
        yield
        return
    client, key, done = distributed.global_state.client, "scratchpatch/last words", threading.Event()

    def listen() -> None:
        while not done.wait(_LISTEN_SECONDS):
            try:
                words = " ".join(client.key_value_try_get(key).split())
            except jax.errors.JaxRuntimeError:
                continue
            if not done.wait(_GRACE_SECONDS):
                with contextlib.suppress(OSError):
                    line = f"scratchpatch: {output.escaped(words)}; its own output says where"
                    print(line, file=sys.stderr, flush=True)
                # Python does this at its end, which this process would not reach.
                jax.distributed.shutdown()
                time.sleep(_AFTER_SECONDS)
                os._exit(1)

    listener = threading.Thread(target=listen, name="last words", daemon=True)
    listener.start()
    try:
        yield
    except BaseException as error:
        what = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        # The first failure of several is enough; and a coordinator that is gone has told the others already.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            client.key_value_set(key, f"process {jax.process_index()} failed: {what}")
        # Python, as it ends, would wait for a thread that waits for another process.
        _leaving.set()
        raise
    finally:
        done.set()
        listener.join()


def share(folder: Path) -> None:
    """Raise UserError in every process unless all of them write into one folder, not each on a disk of its own."""
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
    """Whether a file of a shared disk that another process wrote is here, or is within so many seconds. A network file
    system may remember for a while that a name was not there, or what its folder held.
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


def meet(where: str) -> None:
    """Wait until all processes are here, once for each place. They meet by the coordinator, which a slow start does not
    hurry as collectives between CPUs do.
    """
    if jax.process_count() > 1:
        distributed.global_state.client.wait_at_barrier(f"scratchpatch: {where}", _MEETING_MILLISECONDS)


def reached(event: str, step: int, asked: bool) -> bool:
    """Whether this is the step at which all processes do what one of them was asked for; event: a name for itself. All
    of them call it after each step, in the same order. They are never more than two steps apart, because each reads the
    sums of a step before it goes on to the next but one; so a step that one process names is still ahead of all.
    """
    client, key = distributed.global_state.client, f"scratchpatch: {event}"
    if asked:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # another process was asked, too
            client.key_value_set(key, str(step + _AHEAD_STEPS))
    try:
        return step == int(client.key_value_try_get(key))
    except jax.errors.JaxRuntimeError:  # nobody was
        return False
