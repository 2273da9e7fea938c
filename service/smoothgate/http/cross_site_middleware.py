"""Keeps web pages of strangers from using a service that asks for no key.

A browser lets any page send a form or plain text to any address, a service on the same machine included.
After DNS rebinding, the page can read the answer too.
"""

from __future__ import annotations

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from smoothgate import metrics
from smoothgate.errors import Forbidden
from smoothgate.http import error_responses

_LOCAL = frozenset({"localhost", "127.0.0.1", "[::1]"})


class CrossSite:
    """Refuses what another site's page sends, and on a loopback address what names another host.

    Args:
        app: the routes.
        origins: pages of other sites that may ask; `*`: all.
        hosts: names of this service beside the address that it listens on; None: any name is taken.
    """

    def __init__(self, app: ASGIApp, origins: Collection[str], hosts: Collection[str] | None) -> None:
        self._app = app
        self._origins = frozenset(origins)
        self._hosts = None if hosts is None else _LOCAL.union(map(str.lower, hosts))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http":
            error = self._problem(Headers(scope=scope))
            if error is not None:
                metrics.REFUSALS.labels(error.code).inc()
                await error_responses.response_of(error, scope["path"])(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _problem(self, headers: Headers) -> Forbidden | None:
        host = headers.get("Host", "").lower()
        if self._hosts is not None and _without_port(host) not in self._hosts:
            return Forbidden(
                "This service asks for no key, so it answers under its own name alone. Ask for localhost, or "
                "have the operator add the name to SMOOTHGATE_HOSTS.",
                code="foreign_host",
            )
        origin = headers.get("Origin")
        is_own = origin is None or origin.lower() in (f"http://{host}", f"https://{host}")
        if is_own or "*" in self._origins or origin in self._origins:
            return None
        return Forbidden(
            "This service asks for no key, so it does not answer pages of other sites. The operator can add "
            "them to SMOOTHGATE_CORS_ORIGINS.",
            code="foreign_origin",
        )


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host
