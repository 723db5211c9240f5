"""What answers requests for completions: an engine behind its driver, the scores of prompts, the limits, the numbers.

An answer is made of parts (see `answer`), and a stream sends them as they come. The rows of whoever hangs up are
cancelled.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
from absl import logging

from scratchpatch import background
from scratchpatch.errors import UserError, first_line
from scratchpatch.serving import answer
from scratchpatch.serving.driver import Driver, Job
from scratchpatch.serving.metrics import Metrics
from scratchpatch.serving.refusal import Refused
from scratchpatch.serving.request import USUAL, Limits, Request, refusal_of


class Service:
    """One model for many clients, all of whose methods belong to one event loop.

    engine: see `scratchpatch.inference.engine`. score: log2-probability of each byte of a prompt, such as
    `LanguageModel.score`; without it no prompt can be echoed with its log-probabilities.

    Attributes:
      draining: nothing new is begun, and what runs is finished.
      open: requests that are being answered; whoever answers them counts them here.
    """

    def __init__(
        self, engine, model: str, score: Callable[[bytes], np.ndarray] | None = None, limits: Limits = USUAL
    ):
        self.model, self.limits, self.metrics, self.created = model, limits, Metrics(), int(time.time())
        self.driver = Driver(engine, limits.queue, self.metrics)
        self.draining, self.open = False, 0
        self._score, self._scoring = score, 0
        # One prompt at a time, since each takes all the cores.
        self._one_thread = concurrent.futures.ThreadPoolExecutor(1, "scores")
        self.metrics.gauges |= {
            "scratchpatch_rows": lambda: engine.rows,
            "scratchpatch_rows_running": lambda: engine.running,
            "scratchpatch_rows_waiting": lambda: engine.waiting,
            "scratchpatch_requests_open": lambda: self.open,
        }

    def start(self) -> None:
        """Begin, in the event loop that runs now."""
        self.driver.start()

    async def stop(self) -> None:
        """End the threads, as far as they do not take too long."""
        self._one_thread.shutdown(wait=False, cancel_futures=True)
        await self.driver.stop()

    @property
    def state(self) -> str:
        """'ok', 'draining' or 'failed'."""
        if self.driver.failure is not None:
            return "failed"
        return "draining" if self.draining else "ok"

    def check(self, request: Request) -> None:
        """Raises Refused for a request that this server does not answer."""
        if self.draining:
            raise Refused(503, "the server is stopping")
        if request.model not in (None, self.model):
            raise Refused(404, f"model: this server has {self.model!r} alone", "model", "model_not_found")
        if request.echo and request.logprobs is not None and self._score is None:
            raise Refused(400, "echo: this server gives no log-probabilities of prompts", "echo")

    async def begin(self, request: Request, began: float) -> Answer:
        """The answer whose rows the engine has taken. began: when the request came, by `time.monotonic`.

        Raises Refused.
        """
        self.check(request)
        job = Job(request.rows, began)
        if request.max_bytes:
            await self.driver.submit(job)
        self.metrics.prompt_bytes.add(sum(map(len, request.prompts)))
        return Answer(self, request, job)

    async def log2_prompts(self, request: Request) -> list[np.ndarray | None]:
        """The log2-probabilities of each prompt's bytes, None where they are not wanted. Raises Refused."""
        if not request.echo or request.logprobs is None:
            return [None] * len(request.prompts)
        if self._scoring >= self.limits.queue:
            raise Refused(429, f"{self._scoring} requests wait for the scores of prompts: try again later")
        self._scoring += 1
        try:
            return [
                await asyncio.wrap_future(background.start(functools.partial(self._score, prompt), self._one_thread))
                for prompt in request.prompts
            ]
        except UserError as error:
            raise refusal_of(error) from None
        except Exception as error:
            logging.exception("a prompt could not be scored")
            raise Refused(500, f"the prompt could not be scored: {first_line(error)}") from error
        finally:
            self._scoring -= 1


class Answer:
    """The answer to one request; `close` must be called, whatever happens."""

    def __init__(self, service: Service, request: Request, job: Job):
        self._service, self._request, self._job = service, request, job
        self._frame = answer.frame(service.model)
        self._choices: list[answer.Choice] = []

    async def whole(self) -> dict[str, Any]:
        """The JSON object of the answer. Raises Refused."""
        parts = [[] for _ in self._job.rows]
        async for part in self.parts():
            parts[part["index"]].append(part)
        return {**self._frame, "choices": [answer.joined(each) for each in parts], "usage": self._usage()}

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """The JSON objects of a stream, the last of which may be an error."""
        shared = {"usage": None} if self._request.usage else {}
        try:
            async for part in self.parts():
                yield {**self._frame, "choices": [part], **shared}
        except Refused as refusal:
            yield refusal.body()
            return
        if self._request.usage:
            yield {**self._frame, "choices": [], "usage": self._usage()}

    async def parts(self) -> AsyncIterator[dict[str, Any]]:
        """The parts of all choices as they come. Raises Refused where one cannot go on."""
        request, scores = self._request, await self._service.log2_prompts(self._request)
        each = [(prompt, score) for prompt, score in zip(request.prompts, scores, strict=True) for _ in request.options]
        self._choices = [answer.Choice(i, request, prompt, score) for i, (prompt, score) in enumerate(each)]
        for choice in self._choices:
            if request.echo:
                yield choice.echo()
            if not request.max_bytes:
                yield choice.end()
        unfinished = len(self._choices) if request.max_bytes else 0
        while unfinished:
            event = await self._job.events.get()
            if isinstance(event, Refused):
                raise event
            index, progress = event
            unfinished -= progress.finish is not None
            if part := self._choices[index].part(progress):
                yield part

    def close(self) -> None:
        """Give back the places of rows that are not finished."""
        self._service.driver.cancel(self._job)

    def _usage(self) -> dict[str, int]:
        return answer.usage(self._request, self._choices)
