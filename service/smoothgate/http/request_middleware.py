"""What surrounds every request: its id, its span, its line in the log, its count among those in flight."""

from __future__ import annotations

import asyncio
import re
import time
import uuid

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smoothgate import tracing
from smoothgate.errors import NotReady, SmoothgateError
from smoothgate.gate.in_flight import InFlight
from smoothgate.http import error_responses, sse
from smoothgate.http.operation_routes import PROBES
from smoothgate.logs import get_logger

ID_HEADER = "X-Request-Id"
#: Where Anthropic's clients look for the same.
ANTHROPIC_ID_HEADER = "Request-Id"

_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

log = get_logger("request")


class Context:
    """The outermost layer: it answers what nothing inside it answers.

    Args:
        app: all inner layers.
        in_flight: counts each request except probes.
    """

    def __init__(self, app: ASGIApp, in_flight: InFlight) -> None:
        self._app = app
        self._in_flight = in_flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        identifier = sane_id(headers.get(ID_HEADER, ""))
        scope.setdefault("state", {})["request_id"] = identifier
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=identifier)
        is_probe = scope["path"] in PROBES
        answer = _Answer(send, identifier)
        started = time.perf_counter()
        if is_probe:
            await self._guarded(scope, receive, answer)
            return
        try:
            with (
                self._in_flight.one_more(),
                tracing.request(scope["method"], headers) as span,
            ):
                span.set_attribute("smoothgate.request_id", identifier)
                if (trace_id := tracing.trace_id(span)) is not None:
                    structlog.contextvars.bind_contextvars(trace_id=trace_id)
                try:
                    await self._guarded(scope, receive, answer)
                finally:
                    route = getattr(scope.get("route"), "path", None)
                    tracing.answered(span, scope["method"], route, answer.status)
        finally:
            _log(scope, answer, time.perf_counter() - started)

    async def _guarded(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        try:
            await self._app(scope, receive, answer)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._in_flight.cut_off or task is None:
                raise
            task.uncancel()
            late = NotReady(
                "The service shut down before the answer was complete.", code="draining", retry_after=1
            )
            await answer.fail(late, scope, receive)
        except Exception as error:
            log.error("unexpected failure", path=scope["path"], exc_info=error)
            await answer.fail(SmoothgateError("An internal error occurred."), scope, receive)


def sane_id(given: str) -> str:
    """The id that a client sent where it is sane, else a new one."""
    return given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex


class _Answer:
    """Sends messages, puts the id on every response, and remembers status and completeness."""

    def __init__(self, send: Send, identifier: str) -> None:
        self._send = send
        self._identifier = identifier
        self.status: int | None = None
        self.complete = False
        self._streams = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers[ID_HEADER] = self._identifier
            headers[ANTHROPIC_ID_HEADER] = self._identifier
            self._streams = headers.get("content-type", "").startswith("text/event-stream")
        elif message["type"] == "http.response.body":
            self.complete = not message.get("more_body", False)
        await self._send(message)

    async def fail(self, error: SmoothgateError, scope: Scope, receive: Receive) -> None:
        """End with an error: a response, or the last frame of a stream, or a connection that breaks off."""
        if self.status is None:
            await error_responses.response_of(error, scope["path"])(scope, receive, self)
        elif self._streams and not self.complete:
            frame = sse.failure(error, scope["path"]).encode()
            await self({"type": "http.response.body", "body": frame, "more_body": False})
        elif not self.complete:
            raise error


def _log(scope: Scope, answer: _Answer, seconds: float) -> None:
    account = scope["state"].get("account")
    log.info(
        "request",
        method=scope["method"],
        path=scope["path"],
        status=answer.status,
        complete=answer.complete,
        seconds=round(seconds, 4),
        # As uvicorn knows it: that of a proxy, unless FORWARDED_ALLOW_IPS names it.
        **({"address": scope["client"][0]} if scope.get("client") else {}),
        **({"client": account.name} if account else {}),
    )
