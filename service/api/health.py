"""Probes and metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.api.request import runtime_of

router = APIRouter(tags=["Operation"])

_RETRY_SECONDS = "5"


@router.get("/health/live")
async def live() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/health/ready", responses={503: {"description": "A part is not up; see Retry-After"}})
async def ready(request: Request) -> JSONResponse:
    """Engine, encoder and sampler are all up."""
    problems = runtime_of(request).problems()
    if problems:
        return JSONResponse(
            {"status": "not ready", "problems": problems}, 503, {"Retry-After": _RETRY_SECONDS}
        )
    return JSONResponse({"status": "ok"})


@router.get("/metrics", response_class=Response)
async def metrics() -> Response:
    """Prometheus' text format."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
