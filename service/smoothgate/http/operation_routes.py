"""Probes, metrics, and what a certificate is checked with."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from smoothgate.gate.description import Description
from smoothgate.gate.health import Health
from smoothgate.gate.issuing import Issuer
from smoothgate.http import error_responses, openapi_examples
from smoothgate.http.request_state import account_of
from smoothgate.off_loop import off_loop
from smoothgate.schemas import Health as HealthAnswer
from smoothgate.schemas import IssuedCertificate, KeptCertificates, KeySet, ServiceVersion

# A new key signs after a restart only. Verifiers that meet an unknown key ask again.
_KEY_SET_CACHE = "public, max-age=300"
LIVE = "/health/live"
READY = "/health/ready"
#: Where monitors, vLLM's clients and hosting platforms look for the same.
READY_ALIASES = ("/health", "/healthz", "/ping")
PROBES = frozenset({LIVE, READY, *READY_ALIASES, "/metrics"})
_RETRY_SECONDS = 5.0


def operation_router(
    health: Health, issuer: Issuer, description: Description, *, with_metrics: bool
) -> APIRouter:
    """The routes.

    Args:
        health: answers the readiness probe.
        issuer: has the public keys, and the certificates that are kept.
        description: version and digests.
        with_metrics: whether metrics are served here; otherwise they have a port of their own.
    """
    router = APIRouter(tags=["Operation"])

    @router.get(
        LIVE,
        response_model=HealthAnswer,
        responses={503: {"model": HealthAnswer, "description": "Only a new process can help"}},
    )
    async def live() -> JSONResponse:
        """The process answers, and no part of it is in a state that only a new process can help."""
        if problems := health.beyond_repair():
            return JSONResponse({"status": "beyond repair", "problems": problems}, 503)
        return JSONResponse({"status": "ok"})

    @router.get(
        READY,
        response_model=HealthAnswer,
        responses={503: {"model": HealthAnswer, "description": "A part is not up; see Retry-After"}},
    )
    async def ready() -> JSONResponse:
        """All parts of this gate are up, the latest canary came back as it should, and nothing ends.

        A vLLM that other gates share is no part of it.
        """
        if problems := health.problems():
            return JSONResponse(
                {"status": "not ready", "problems": problems},
                503,
                {"Retry-After": error_responses.retry_after(_RETRY_SECONDS)},
            )
        return JSONResponse({"status": "ok"})

    for path in READY_ALIASES:
        router.add_api_route(path, ready, include_in_schema=False)

    @router.get("/.well-known/jwks.json", response_model=KeySet)
    async def key_set(response: Response) -> dict[str, Any]:
        """The public keys that certificates are signed with (RFC 7517)."""
        response.headers["Cache-Control"] = _KEY_SET_CACHE
        return issuer.key_set

    @router.get("/v1/certificates/schema", responses=openapi_examples.DOOR)
    async def schema() -> dict[str, Any]:
        """The JSON Schema of a certificate."""
        return IssuedCertificate.model_json_schema()

    @router.get("/v1/certificates/{identifier}", responses=openapi_examples.DOOR | openapi_examples.NOT_FOUND)
    async def kept(identifier: str, request: Request) -> KeptCertificates:
        """The certificates of a request of this client, by its id (`X-Request-Id`), where they are kept."""
        found = await issuer.issued(identifier, account_of(request))
        return KeptCertificates.model_validate({"request_id": identifier, "certificates": found})

    @router.get("/v1/version", response_model=ServiceVersion, responses=openapi_examples.DOOR)
    async def version() -> dict[str, Any]:
        """The version of the service, and the digests that its certificates carry."""
        return await off_loop(description.version)

    @router.get(
        "/metrics",
        response_class=PlainTextResponse,
        responses=openapi_examples.DOOR | openapi_examples.NOT_FOUND,
    )
    async def metrics() -> Response:
        """Prometheus' text format; not here where it has a port of its own."""
        if not with_metrics:
            raise HTTPException(404, "Metrics are served on another port.")
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return router
