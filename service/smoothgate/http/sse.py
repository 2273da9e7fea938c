"""Server-sent events: one JSON object per event."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import structlog
from fastapi.responses import StreamingResponse

from smoothgate.errors import SmoothgateError
from smoothgate.http import error_responses

log = structlog.get_logger("api")

DONE = "data: [DONE]\n\n"


def event(value: dict[str, Any]) -> str:
    """One event."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def response(events: AsyncGenerator[str]) -> StreamingResponse:
    """A response that no proxy should buffer or store; a failure in it is its last frame."""
    unbuffered = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_failing_clearly(events), media_type="text/event-stream", headers=unbuffered)


async def _failing_clearly(events: AsyncGenerator[str]) -> AsyncGenerator[str]:
    try:
        async with aclosing(events):
            async for each in events:
                yield each
    except SmoothgateError as error:
        yield event(error_responses.body_of(error))
    except Exception as error:
        log.error("unexpected failure in a stream", exc_info=error)
        yield event(error_responses.body_of(SmoothgateError("An internal error occurred.")))
