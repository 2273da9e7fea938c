"""Server-sent events: one JSON object per event."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi.responses import StreamingResponse

DONE = "data: [DONE]\n\n"


def event(value: dict[str, Any]) -> str:
    """One event."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def response(events: AsyncIterator[str], headers: dict[str, str]) -> StreamingResponse:
    """A response that no proxy should buffer or store."""
    unbuffered = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers | unbuffered)
