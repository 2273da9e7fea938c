"""The FastAPI application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI
from fastapi.middleware.cors import CORSMiddleware

from smoothgate import __version__
from smoothgate.gate.service import Service
from smoothgate.http import docs_route, error_responses
from smoothgate.http.access_middleware import OPEN, Access
from smoothgate.http.body_limit_middleware import BodyLimit
from smoothgate.http.certify_route import certify_router
from smoothgate.http.chat_route import chat_router
from smoothgate.http.cross_site_middleware import CrossSite
from smoothgate.http.embeddings_route import embeddings_router
from smoothgate.http.log_routes import log_router
from smoothgate.http.messages_route import messages_router
from smoothgate.http.openai_routes import openai_router
from smoothgate.http.openapi_schema import complete_schema
from smoothgate.http.operation_routes import operation_router
from smoothgate.http.outcome_headers import OUTCOME, RADIUS
from smoothgate.http.request_middleware import ID_HEADER, Context
from smoothgate.http.responses_route import responses_router
from smoothgate.http.spelling_middleware import Spelling
from smoothgate.settings import Settings

#: Headers that pages of other sites may read.
EXPOSED = (ID_HEADER, OUTCOME, RADIUS, "Retry-After", "WWW-Authenticate")

DESCRIPTION = """
A gate in front of vLLM: every picture is encoded by a randomised-smoothed vision encoder, and every answer
comes with a certificate, a lower bound on how far the features behind it can be moved by any small change of
the picture.
"""


def create_app(
    service: Service, settings: Settings, routers: Sequence[APIRouter] = (), public: Collection[str] = ()
) -> FastAPI:
    """A service as an ASGI application, which starts and stops it.

    Args:
        service: not started yet.
        settings: of the process.
        routers: further routes.
        public: paths of these that ask for no key.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.stop()

    app = FastAPI(
        title="Smoothgate",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    error_responses.install(app)
    for router in (
        chat_router(service.answering, service.model.name),
        certify_router(service.answering, service.model.name),
        openai_router(service.answering, service.model.name, service.created, service.description),
        responses_router(service.answering, service.model.name),
        messages_router(service.answering, service.model.name),
        embeddings_router(service.answering, service.model.name),
        log_router(service.commitments, service.issuer),
        operation_router(
            service.health, service.issuer, service.description, with_metrics=settings.metrics_port is None
        ),
        docs_route.router,
        *routers,
    ):
        app.include_router(router)
    # The last one added is the outermost.
    app.add_middleware(
        BodyLimit,
        limit=settings.max_body_bytes,
        seconds=settings.body_timeout_seconds,
        total=settings.max_bodies_bytes,
    )
    app.add_middleware(
        Access,
        gatekeeper=service.gatekeeper,
        in_flight=service.in_flight,
        public=OPEN.union(public),
    )
    if settings.accounts is None:
        app.add_middleware(
            CrossSite,
            origins=settings.cors_origins,
            hosts=(*settings.hosts, settings.host) if settings.is_loopback else None,
        )
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=EXPOSED,
        )
    app.add_middleware(Context, in_flight=service.in_flight)
    app.add_middleware(Spelling)
    complete_schema(app, asks_for_keys=settings.accounts is not None)
    return app
