"""The limits of a request's body, held while it comes in."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smoothgate import metrics
from smoothgate.errors import BodyTimedOut, Overloaded, TooLarge


class BodyLimit:
    """Refuses a body as soon as it is seen to be too large or too slow, alone or with the others.

    Args:
        app: reads the body.
        limit: its bytes.
        seconds: until it is complete.
        total: bytes of the bodies of all requests under way together.
    """

    def __init__(self, app: ASGIApp, limit: int, seconds: float, total: int) -> None:
        self._app = app
        self._limit = limit
        self._seconds = seconds
        self._total = total
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with a counting `receive`."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seen = 0
        ends: float | None = asyncio.get_running_loop().time() + self._seconds

        async def counted() -> Message:
            nonlocal seen, ends
            try:
                async with asyncio.timeout_at(ends):
                    message = await receive()
            except TimeoutError as error:
                raise BodyTimedOut(f"The body was not complete within {self._seconds:g} seconds.") from error
            if not message.get("more_body", False):
                ends = None
            size = len(message.get("body", b""))
            seen += size
            self._hold(size)
            if size and self._held > max(self._total, seen):
                raise Overloaded(
                    "The bodies of the requests under way are too large together.",
                    code="too_many_bytes",
                    retry_after=1,
                )
            if seen > self._limit:
                raise TooLarge(f"The body is larger than {self._limit} bytes.", code="body_too_large")
            return message

        try:
            await self._app(scope, counted, send)
        finally:
            self._hold(-seen)

    def _hold(self, size: int) -> None:
        self._held += size
        metrics.BODY_BYTES.set(self._held)
