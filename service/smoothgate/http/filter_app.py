"""A service as a filter: a request comes in as its client sent it, and goes out as vLLM may see it.

It is an ASGI application, so that keys, limits, ids, the log and errors are those of the gate. A response of
status 200 holds the body for vLLM. Any other is for the client.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import Response

from smoothgate.engine import encoded
from smoothgate.errors import NotFound
from smoothgate.gate.answering import Answering
from smoothgate.gate.service import Service
from smoothgate.http import error_responses
from smoothgate.http.access_middleware import Access
from smoothgate.http.body_limit_middleware import BodyLimit
from smoothgate.http.openai_routes import ROUTE, turn_of
from smoothgate.http.outcome_headers import CERTIFICATE, features_headers
from smoothgate.http.request_body import read_object
from smoothgate.http.request_middleware import Context
from smoothgate.http.request_state import account_of, request_id, while_connected
from smoothgate.off_loop import off_loop
from smoothgate.settings import Settings

Json = dict[str, Any]

_METHODS = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"]
# A certificate of features has some 8 KiB. Envoy takes 60 KiB of headers together.
_MOST_HEADER_BYTES = 48 * 1024
_ABSENT = object()


def create_filter(service: Service, settings: Settings) -> FastAPI:
    """The application. Whoever runs it starts and stops the service.

    Args:
        service: its engine is not asked.
        settings: of the process.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    error_responses.install(app)
    app.include_router(_router(service.answering))
    # The last one added is the outermost.
    app.add_middleware(
        BodyLimit,
        limit=settings.max_body_bytes,
        seconds=settings.body_timeout_seconds,
        total=settings.max_bodies_bytes,
    )
    app.add_middleware(Access, gatekeeper=service.gatekeeper, in_flight=service.in_flight, public=frozenset())
    app.add_middleware(Context, in_flight=service.in_flight)
    return app


def _router(answering: Answering) -> APIRouter:
    router = APIRouter()

    @router.post(ROUTE)
    async def chat_completions(request: Request) -> Response:
        """The chat with visual tokens in the place of its pictures; byte for byte where nothing changes."""
        body = await read_object(request)
        turn = turn_of(body, account_of(request), request_id(request))
        replaced = await while_connected(request, answering.replaced(turn))
        headers = features_headers(replaced.certificates)
        if replaced.certificates and request.headers.get(CERTIFICATE) == "?1":
            certificates = ", ".join(one.jws for one in replaced.certificates)
            if len(certificates) <= _MOST_HEADER_BYTES:
                headers[CERTIFICATE] = certificates
        if _is_unchanged(body, replaced.body):
            content = await request.body()
        else:
            content = await off_loop(encoded, replaced.body)
        return Response(content, headers=headers, media_type="application/json")

    @router.api_route("/{path:path}", methods=_METHODS)
    async def anything_else(path: str) -> Response:
        """Refused: what is not read may hold pictures, or embeddings."""
        raise NotFound(f"Only POST {ROUTE} passes here with a body.", code="not_filtered")

    return router


def _is_unchanged(body: Json, replaced: Json) -> bool:
    """Whether vLLM may see a body as it came: it lacks nothing and what it has beyond changes no answer."""
    return "smoothing" not in body and all(
        body.get(name, _ABSENT) == value for name, value in replaced.items()
    )
