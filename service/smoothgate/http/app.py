"""The FastAPI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smoothgate import __version__
from smoothgate.errors import BodyTimedOut, TooLarge
from smoothgate.gate.runtime import Runtime
from smoothgate.gate.schemas import SmoothingOptions
from smoothgate.http import certify_route, chat_route, error_responses, openai_routes, operation_routes
from smoothgate.http.access import OPEN, Access
from smoothgate.http.request_context import Context
from smoothgate.settings import Settings

DESCRIPTION = """
A gate in front of vLLM: every picture is encoded by a randomised-smoothed vision encoder, and every answer
    comes with
a certificate, a lower bound on how far the features behind it can be moved by any small change of the
picture.
"""


def create_app(
    settings: Settings, routers: Sequence[APIRouter] = (), public: Collection[str] = ()
) -> FastAPI:
    """The service as an ASGI application; `app.state.runtime` holds what runs behind it.

    Args:
        settings: of the process.
        routers: further routes.
        public: paths of these that ask for no key.
    """
    runtime = Runtime(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await runtime.start()
        try:
            yield
        finally:
            await runtime.stop()

    app = FastAPI(
        title="Smoothgate",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
    )
    app.state.runtime = runtime
    error_responses.install(app)
    for router in (
        chat_route.router,
        certify_route.router,
        openai_routes.router,
        operation_routes.router,
        *routers,
    ):
        app.include_router(router)
    # The last one added is the outermost.
    app.add_middleware(BodyLimit, limit=settings.max_body_bytes, seconds=settings.body_timeout_seconds)
    app.add_middleware(
        Access,
        gatekeeper=runtime.gatekeeper,
        in_flight=runtime.in_flight,
        max_requests=settings.max_requests,
        public=OPEN.union(public),
    )
    app.add_middleware(Context, in_flight=runtime.in_flight)
    _complete_schema(app, asks_for_keys=settings.accounts is not None)
    return app


class BodyLimit:
    """Refuses a body as soon as it is seen to be too large, counted while it comes in, or too slow.

    Args:
        app: what reads it.
        limit: its bytes.
        seconds: until it is complete.
    """

    def __init__(self, app: ASGIApp, limit: int, seconds: float) -> None:
        self._app = app
        self._limit = limit
        self._seconds = seconds

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
            seen += len(message.get("body", b""))
            if seen > self._limit:
                raise TooLarge(f"The body is larger than {self._limit} bytes.", code="body_too_large")
            return message

        await self._app(scope, counted, send)


def _complete_schema(app: FastAPI, *, asks_for_keys: bool) -> None:
    """What FastAPI cannot see: the model that bodies refer to, which are parsed by hand, and the keys."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        document = made()
        components = document.setdefault("components", {})
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}] if asks_for_keys else [{}, {"key": []}]
        for path in OPEN & document["paths"].keys():
            for operation in document["paths"][path].values():
                operation["security"] = []
        schemas = components.setdefault("schemas", {})
        schema = SmoothingOptions.model_json_schema(ref_template="#/components/schemas/{model}")
        for name, part in (schema.pop("$defs", {}) | {"SmoothingOptions": schema}).items():
            schemas.setdefault(name, part)
        return document

    app.openapi = openapi  # type: ignore[method-assign]
