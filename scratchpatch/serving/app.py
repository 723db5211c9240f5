"""The routes: what a client can ask, and what each answer looks like on the wire.

    POST /v1/completions    see `request` and `answer`
    GET  /v1/models         the one model
    GET  /health            200 while requests are taken, else 503
    GET  /metrics           see `metrics`
    GET  /                  the page
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request as HttpRequest
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from scratchpatch.serving import metrics as metrics_lib, page, request as request_lib
from scratchpatch.serving.refusal import Refused
from scratchpatch.serving.service import Answer, Service

# What is counted where a client hung up before it had its answer.
_HUNG_UP = 499


def create(
    engine, model: str, score: Callable[[bytes], np.ndarray] | None = None,
    limits: request_lib.Limits = request_lib.USUAL,
) -> Starlette:
    """The application of one model, see `service.Service`; its `state.service` is that."""
    service = Service(engine, model, score, limits)
    shown = page.make(model)

    @contextlib.asynccontextmanager
    async def lifespan(_) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            await service.stop()

    async def models(_: HttpRequest) -> Response:
        return _json({"object": "list", "data": [_model(service)]})

    async def one_model(request: HttpRequest) -> Response:
        if request.path_params["name"] != model:
            raise Refused(404, f"this server has the model {model!r} alone", "model", "model_not_found")
        return _json(_model(service))

    async def health(_: HttpRequest) -> Response:
        return _json({"status": service.state}, 200 if service.state == "ok" else 503)

    async def metrics(_: HttpRequest) -> Response:
        return Response(service.metrics.text(), headers={"Content-Type": metrics_lib.CONTENT_TYPE})

    async def root(_: HttpRequest) -> Response:
        return Response(shown.html, media_type="text/html", headers=shown.headers)

    async def completions(request: HttpRequest) -> Response:
        return await _completions(service, request)

    routes = [
        Route("/v1/completions", completions, methods=["POST"]), Route("/v1/models", models),
        Route("/v1/models/{name:path}", one_model), Route("/health", health), Route("/metrics", metrics),
        Route("/", root),
    ]
    handlers = {Refused: _refused, HTTPException: _http_error, Exception: _defect}
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)
    app.state.service = service
    return app


async def _completions(service: Service, http: HttpRequest) -> Response:
    began = time.monotonic()
    service.open += 1
    ending = _Ending(service)
    try:
        asked = request_lib.read(await _body(http, service.limits), service.limits)
        answer = ending.answer = await service.begin(asked, began)
        if asked.stream:
            return _Stream(answer, ending)
        response = await _unless_hung_up(http, answer.whole())
        ending(200)
        return _json(response)
    except Refused as refusal:
        ending(refusal.status)
        raise
    except ClientDisconnect:
        ending(_HUNG_UP)
        # Nobody reads it.
        return Response(status_code=_HUNG_UP)
    except BaseException:
        ending(500)
        raise


class _Ending:
    """Ends the answer to a request, and counts how it ended; the first call counts."""

    def __init__(self, service: Service):
        self._service, self._ended, self.answer = service, False, None

    def __call__(self, status: int) -> None:
        if self._ended:
            return
        self._ended = True
        self._service.open -= 1
        self._service.metrics.requests.add(status=status)
        if self.answer is not None:
            self.answer.close()


class _Stream(StreamingResponse):
    """Server-sent events: one JSON object each, then [DONE]."""

    def __init__(self, answer: Answer, ending: _Ending):
        super().__init__(self._lines(answer), media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._ending, self._status = ending, _HUNG_UP

    async def __call__(self, scope, receive, send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ending(self._status)

    async def _lines(self, answer: Answer) -> AsyncIterator[bytes]:
        async for event in answer.events():
            yield b"data: " + msgspec.json.encode(event) + b"\n\n"
            if "error" in event:
                self._status = 500
                return
        self._status = 200
        yield b"data: [DONE]\n\n"


async def _body(http: HttpRequest, limits: request_lib.Limits) -> bytes:
    """The body of a request. Raises Refused where it is no JSON by its own word, too large, or too slow."""
    kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # A page of another site can send a browser here with any other kind, and is asked first for this one.
        raise Refused(415, "send the body as JSON, with Content-Type: application/json")
    too_large = Refused(413, f"the body has more than {limits.body} bytes")
    # h11 has made sure that it is a number.
    if int(http.headers.get("content-length", 0)) > limits.body:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for part in http.stream():
                body += part
                if len(body) > limits.body:
                    raise too_large
    except TimeoutError:
        raise Refused(408, f"the body was not there after {limits.body_seconds:g} s") from None
    return bytes(body)


async def _unless_hung_up(http: HttpRequest, work) -> Any:
    """What `work` returns; raises ClientDisconnect, and ends the work, where the client hangs up before."""
    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(_hang_up(http))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            return tasks[0].result()
        raise ClientDisconnect
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _hang_up(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def _model(service: Service) -> dict[str, Any]:
    return {"id": service.model, "object": "model", "created": service.created, "owned_by": "scratchpatch"}


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    # What is no number (NaN, an infinity) is null.
    return Response(msgspec.json.encode(value), status, headers, "application/json")


async def _refused(_: HttpRequest, refusal: Refused) -> Response:
    return _json(refusal.body(), refusal.status, refusal.headers)


async def _http_error(_: HttpRequest, error: HTTPException) -> Response:
    return _json(Refused(error.status_code, error.detail).body(), error.status_code, error.headers)


async def _defect(_: HttpRequest, error: Exception) -> Response:
    return _json(Refused(500, f"a defect of the server: {type(error).__name__}").body(), 500)
