"""The engine in a thread of its own, and the requests that wait for it in the event loop.

The loop gives orders by a queue, and the thread answers by `call_soon_threadsafe`, once per dispatch of the engine.
Nothing else is shared but numbers that are only looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import queue
import time
from collections.abc import Callable
from typing import Any

from scratchpatch import background
from scratchpatch.errors import UserError, first_line
from scratchpatch.inference.options import Options
from scratchpatch.serving.metrics import Metrics
from scratchpatch.serving.refusal import Refused
from scratchpatch.serving.request import refusal_of

# How long a thread that is told to stop may take for the dispatch that it is at.
_LAST_DISPATCH = 5.0


def warm_up(engine) -> None:
    """Compile what most requests need, so that the first of them does not wait for it."""
    for options in (Options(max_bytes=1), Options(max_bytes=1, logprobs=1)):
        # Prompts are read by chunks of some sizes, and each is a program of its own.
        for size in (1, 32, 128):
            engine.submit(b" " * size, options)
        while not engine.idle:
            engine.step()


@dataclasses.dataclass
class _Written:
    """When the first bytes of a row came, and how many those and all bytes are."""

    began: float
    first: int
    total: int = 0


@dataclasses.dataclass(eq=False)
class Job:
    """The rows of one request.

    Attributes:
      rows: prompt and options of each.
      events: (index of a row, the engine's progress on it), or a Refused that ends the job.
      running: indices of rows that are not finished.
      began: when the request came, by `time.monotonic`.
      progress: what has come of each row.
    """

    rows: list[tuple[bytes, Options]]
    began: float
    events: asyncio.Queue = dataclasses.field(default_factory=asyncio.Queue)
    accepted: asyncio.Future | None = None
    running: set[int] = dataclasses.field(default_factory=set)
    progress: dict[int, _Written] = dataclasses.field(default_factory=dict)


class Driver:
    """Runs an engine. All methods but `_work` and what it calls belong to the event loop.

    Attributes:
      failure: what ended the engine's thread; None while it lives.
      capacity, held: rows that may wait and run, and that do.
      on_failure: is called once where the thread fails.
    """

    def __init__(self, engine, queue_length: int, metrics: Metrics):
        self.engine, self.failure = engine, None
        self.on_failure: Callable[[], None] = lambda: None
        self.capacity = engine.rows + queue_length
        self._metrics, self._jobs, self.held = metrics, set(), 0
        self._orders: queue.SimpleQueue = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = None
        # The thread's own: who waits for a ticket.
        self._tickets: dict[int, tuple[Job, int]] = {}
        self._stopping = False

    def start(self) -> None:
        """Start the thread; it answers to the event loop that runs now."""
        self._loop = asyncio.get_running_loop()
        self._thread = background.start(self._work)

    async def stop(self) -> None:
        """End the thread after the dispatch that it is at. One that takes too long is left to itself."""
        self._orders.put(self._stop)
        await asyncio.wait([asyncio.wrap_future(self._thread)], timeout=_LAST_DISPATCH)

    async def submit(self, job: Job) -> None:
        """Have the rows of a job continued. Raises Refused where there is no place for them, or one is wrong."""
        if self.failure is not None:
            raise _failed(self.failure)
        if len(job.rows) > self.capacity:
            message = f"prompts times n is {len(job.rows)}: this server holds {self.capacity} rows"
            raise Refused(400, message, "n")
        if self.held + len(job.rows) > self.capacity:
            raise Refused(429, f"{self.held} rows run and wait, of {self.capacity} at most: try again later")
        job.running = set(range(len(job.rows)))
        job.accepted = self._loop.create_future()
        self._jobs.add(job)
        self.held += len(job.rows)
        self._orders.put(lambda: self._submit(job))
        try:
            await job.accepted
        except BaseException:
            self.cancel(job)
            raise

    def cancel(self, job: Job) -> None:
        """Give the places of a job's unfinished rows to others; of a finished job there are none."""
        if job in self._jobs:
            self._leave(job)
            self._orders.put(lambda: self._cancel(job))

    def abandon(self, refusal: Refused) -> None:
        """Cancel every job, and tell those who wait why."""
        for job in list(self._jobs):
            self.cancel(job)
            self._refuse(job, refusal)

    def _leave(self, job: Job) -> None:
        self._jobs.discard(job)
        self.held -= len(job.running)
        job.running.clear()

    def _refuse(self, job: Job, refusal: Refused) -> None:
        if job.accepted.done():
            job.events.put_nowait(refusal)
        else:
            job.accepted.set_exception(refusal)

    def _accept(self, job: Job, error: UserError | None) -> None:
        if not job.accepted.done():
            job.accepted.set_result(None) if error is None else job.accepted.set_exception(refusal_of(error))

    def _receive(self, items: list[tuple[Job, int, Any]]) -> None:
        now = time.monotonic()
        for job, index, progress in items:
            if index not in job.running:
                continue
            self._measure(job, index, progress, now)
            job.events.put_nowait((index, progress))
            if progress.finish is not None:
                job.running.discard(index)
                self.held -= 1
        self._jobs = {job for job in self._jobs if job.running}

    def _measure(self, job: Job, index: int, progress, now: float) -> None:
        metrics, size = self._metrics, len(progress.bytes)
        metrics.generated_bytes.add(size)
        metrics.trunk_calls.add(sum(byte.commit for byte in progress.bytes), kind="commit")
        metrics.trunk_calls.add(sum(byte.scratchpad for byte in progress.bytes), kind="scratchpad")
        if size and index not in job.progress:
            job.progress[index] = _Written(now, size)
            metrics.first_byte.observe(now - job.began)
        if written := job.progress.get(index):
            written.total += size
            # The bytes that came with the first one took no time of their own.
            if progress.finish is not None and written.total > written.first:
                metrics.per_byte.observe((now - written.began) / (written.total - written.first))

    def _fail(self, error: BaseException) -> None:
        self.failure = error
        for job in list(self._jobs):
            self._leave(job)
            self._refuse(job, _failed(error))
        self.on_failure()

    # What follows runs in the thread.

    def _work(self) -> None:
        try:
            while True:
                self._obey()
                if self._stopping:
                    return
                items = [
                    (*self._tickets[progress.ticket], progress)
                    for progress in self.engine.step()
                    if progress.ticket in self._tickets
                ]
                for *_, progress in items:
                    if progress.finish is not None:
                        del self._tickets[progress.ticket]
                if items:
                    self._tell(self._receive, items)
        except BaseException as error:
            self._tell(self._fail, error)

    def _obey(self) -> None:
        """Carry out the orders that there are; where the engine has nothing to do, wait for one."""
        while not self._stopping:
            try:
                order = self._orders.get(block=self.engine.idle)
            except queue.Empty:
                return
            order()

    def _tell(self, function: Callable, *arguments: Any) -> None:
        # A loop that is gone asks for nothing any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)

    def _submit(self, job: Job) -> None:
        error = None
        try:
            for index, (prompt, options) in enumerate(job.rows):
                self._tickets[self.engine.submit(prompt, options)] = job, index
        except UserError as raised:
            error = raised
        self._tell(self._accept, job, error)

    def _cancel(self, job: Job) -> None:
        for ticket in [ticket for ticket, (owner, _) in self._tickets.items() if owner is job]:
            del self._tickets[ticket]
            self.engine.cancel(ticket)

    def _stop(self) -> None:
        self._stopping = True


def _failed(error: BaseException) -> Refused:
    return Refused(500, f"the engine has failed: {first_line(error)}")
