"""Other spellings of a request: HEAD for GET, and a slash behind the path."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class Spelling:
    """Every layer inside sees one spelling, so keys and limits apply to all of them.

    The server sends no body in answer to HEAD.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on as GET, and without the slash."""
        if scope["type"] == "http":
            method = "GET" if scope["method"] == "HEAD" else scope["method"]
            # A copy: the server looks at its own.
            scope = {**scope, "method": method, "path": scope["path"].rstrip("/") or "/"}
        await self._app(scope, receive, send)
