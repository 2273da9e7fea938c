"""Probes, metrics, and what a certificate is checked with."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from smoothgate.gate.schemas import IssuedCertificate
from smoothgate.http import openapi_examples
from smoothgate.http.request_state import runtime_of

router = APIRouter(tags=["Operation"])

_RETRY_SECONDS = "5"


@router.get("/health/live")
async def live() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/health/ready", responses={503: {"description": "A part is not up; see Retry-After"}})
async def ready(request: Request) -> JSONResponse:
    """Engine, encoder and sampler are up, the latest canary came back as it should, and nothing ends."""
    problems = runtime_of(request).problems()
    if problems:
        return JSONResponse(
            {"status": "not ready", "problems": problems}, 503, {"Retry-After": _RETRY_SECONDS}
        )
    return JSONResponse({"status": "ok"})


@router.get("/.well-known/jwks.json")
async def key_set(request: Request) -> dict[str, Any]:
    """The public keys that certificates are signed with (RFC 7517)."""
    return runtime_of(request).issuer.key_set


@router.get("/v1/certificates/schema", responses=openapi_examples.DOOR)
async def schema() -> dict[str, Any]:
    """The JSON Schema of a certificate."""
    return IssuedCertificate.model_json_schema()


@router.get("/metrics", response_class=Response, responses=openapi_examples.DOOR | openapi_examples.NOT_FOUND)
async def metrics(request: Request) -> Response:
    """Prometheus' text format; not here where it has a port of its own."""
    if runtime_of(request).settings.metrics_port is not None:
        raise HTTPException(404, "Metrics are served on another port.")
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
