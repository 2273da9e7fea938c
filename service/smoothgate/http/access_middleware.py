"""Refuses requests before their bodies are read: no valid key, a limit that is used up, or no room.

Every path asks for a key, except `OPEN` and the paths that the application adds to it.
"""

from __future__ import annotations

from contextlib import ExitStack

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from smoothgate import metrics
from smoothgate.errors import SmoothgateError
from smoothgate.gate.gatekeeper import Gatekeeper
from smoothgate.gate.in_flight import InFlight
from smoothgate.http import error_responses
from smoothgate.http.operation_routes import LIVE, READY, READY_ALIASES

#: Probes, the public keys, and the log of commitments: whoever checks a certificate need not be a client.
OPEN = frozenset(
    {LIVE, READY, *READY_ALIASES, "/.well-known/jwks.json", "/v1/log/checkpoint", "/v1/log/proof"}
)


class Access:
    """Lets requests of known clients through, as long as there is room.

    Args:
        app: the routes.
        gatekeeper: knows the keys.
        in_flight: knows whether there is room.
        public: paths that ask for no key.
    """

    def __init__(
        self, app: ASGIApp, gatekeeper: Gatekeeper, in_flight: InFlight, public: frozenset[str] = OPEN
    ) -> None:
        self._app = app
        self._gatekeeper = gatekeeper
        self._in_flight = in_flight
        self._public = public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or scope["path"] in self._public:
            await self._app(scope, receive, send)
            return
        with ExitStack() as stack:
            try:
                account = self._gatekeeper.admit(_key(Headers(scope=scope)))
                scope["state"]["account"] = account
                if scope["path"] != "/metrics":
                    self._in_flight.require_room()
                    stack.enter_context(self._gatekeeper.under_way(account))
            except SmoothgateError as error:
                metrics.REFUSALS.labels(error.code).inc()
                await error_responses.response_of(error, scope["path"])(scope, receive, send)
                return
            await self._app(scope, receive, send)


def _key(headers: Headers) -> str | None:
    """The key of a request: a bearer token, or a header of its own, as Anthropic's clients send it."""
    scheme, _, key = headers.get("Authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else headers.get("X-Api-Key")
