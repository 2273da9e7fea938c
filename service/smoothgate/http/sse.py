"""Server-sent events: one JSON object per event."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import structlog
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from smoothgate.errors import SmoothgateError
from smoothgate.http import error_responses

log = structlog.get_logger("api")

DONE = "data: [DONE]\n\n"
# No proxy should buffer or store a stream.
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def event(value: dict[str, Any]) -> str:
    """One event."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


class EventStream(StreamingResponse):
    """A response of events. A failure in mid-stream is its last event.

    Args:
        frames: the events as text.
        source: closed when the response is over, even where it never began.
    """

    def __init__(self, frames: AsyncGenerator[str], source: AsyncGenerator[Any]) -> None:
        super().__init__(_failing_clearly(frames), media_type="text/event-stream", headers=_HEADERS)
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._source.aclose()


async def _failing_clearly(frames: AsyncGenerator[str]) -> AsyncGenerator[str]:
    try:
        async for frame in frames:
            yield frame
    except SmoothgateError as error:
        yield event(error_responses.body_of(error))
    except Exception as error:
        log.error("unexpected failure in a stream", exc_info=error)
        yield event(error_responses.body_of(SmoothgateError("An internal error occurred.")))
