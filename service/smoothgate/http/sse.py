"""Server-sent events: one JSON object per event."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from smoothgate.errors import SmoothgateError
from smoothgate.http import error_responses
from smoothgate.logs import get_logger

log = get_logger("api")

DONE = "data: [DONE]\n\n"
RESPONSES = "/v1/responses"
#: After which a comment is sent. Balancers close a connection that is silent for a minute.
SILENCE_SECONDS = 10.0
_COMMENT = b": still working\n\n"
# Stands before the event that ends a silence. `vllm bench serve` strips the ends of what it reads, and would
# take the event for a part of the comment before it.
_AFTER_COMMENT = b":\n\n"
# No proxy should buffer or store a stream.
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def event(value: dict[str, Any], name: str | None = None) -> str:
    """One event, with its name where it has one."""
    named = "" if name is None else f"event: {name}\n"
    return f"{named}data: {json.dumps(value, ensure_ascii=False)}\n\n"


def failure(error: SmoothgateError, path: str) -> str:
    """The last event of a stream that fails, as the clients of this path know it.

    Clients of Responses and Messages look at the event's name, and those of Responses also for the fields of
    the error beside it.
    """
    body = error_responses.body_of(error, path)
    if path == RESPONSES:
        body |= {name: body["error"][name] for name in ("code", "message", "param")} | {"type": "error"}
    return event(body, "error" if "type" in body else None)


class EventStream(StreamingResponse):
    """A response of events. A failure in mid-stream is its last event.

    Args:
        frames: the events as text.
        source: closed when the response is over, even where it never began.
        path: of the request, which a failure has its form from.
    """

    def __init__(self, frames: AsyncGenerator[str], source: AsyncGenerator[Any], path: str = "") -> None:
        super().__init__(_failing_clearly(frames, path), media_type="text/event-stream", headers=_HEADERS)
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        line = _Line(send)
        breaking_silence = asyncio.create_task(line.break_silence())
        try:
            await super().__call__(scope, receive, line)
        finally:
            breaking_silence.cancel()
            await self._source.aclose()


class _Line:
    """Sends the messages of a response, and a comment in each silence, so that no proxy takes it for dead."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._one_at_a_time = asyncio.Lock()
        self._is_open = False
        self._latest = 0.0
        self._ends_in_comment = False

    async def __call__(self, message: Message) -> None:
        async with self._one_at_a_time:
            if self._ends_in_comment and message.get("body"):
                message["body"] = _AFTER_COMMENT + message["body"]
                self._ends_in_comment = False
            await self._pass_on(message)

    async def break_silence(self) -> None:
        while True:
            await asyncio.sleep(SILENCE_SECONDS / 4)
            is_silent = asyncio.get_running_loop().time() - self._latest >= SILENCE_SECONDS
            if self._is_open and is_silent and not self._one_at_a_time.locked():
                async with self._one_at_a_time:
                    await self._pass_on({"type": "http.response.body", "body": _COMMENT, "more_body": True})
                    self._ends_in_comment = True

    async def _pass_on(self, message: Message) -> None:
        await self._send(message)
        self._is_open = message["type"] == "http.response.start" or message.get("more_body", False)
        self._latest = asyncio.get_running_loop().time()


async def _failing_clearly(frames: AsyncGenerator[str], path: str) -> AsyncGenerator[str]:
    try:
        async for frame in frames:
            yield frame
    except SmoothgateError as error:
        yield failure(error, path)
    except Exception as error:
        log.error("unexpected failure in a stream", exc_info=error)
        yield failure(SmoothgateError("An internal error occurred."), path)
