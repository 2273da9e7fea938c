"""`GET /v1/playground`: what the page must know of this service to offer only what it takes."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from smoothgate import __version__
from smoothgate.demo import QUESTIONS, bundled
from smoothgate.http.request_state import runtime_of
from smoothgate.playground.laboratory_plugin import LaboratoryPlugin


def about_router(laboratory: LaboratoryPlugin | None) -> APIRouter:
    """The route of a page that has this laboratory, or none."""
    router = APIRouter(include_in_schema=False)

    @router.get("/v1/playground")
    async def about(request: Request) -> dict[str, Any]:
        """Model, limits, and what is switched on."""
        return _about(request, laboratory)

    return router


def _about(request: Request, laboratory: LaboratoryPlugin | None) -> dict[str, Any]:
    runtime = runtime_of(request)
    s = runtime.settings
    demo = s.model is None
    samples = sorted(path.stem for path in bundled("samples").iterdir()) if demo else []
    return {
        "version": __version__,
        "model": runtime.model_name,
        "demo": demo,
        "laboratory": None if laboratory is None else laboratory.facts(),
        "metrics": s.metrics_port is None,
        "samples": samples,
        "questions": list(QUESTIONS) if demo else [],
        "keys": s.accounts is not None,
        "sigma": {"least": s.sigma_min, "usual": s.sigma, "most": s.sigma_max},
        "n_select": s.n_select,
        "n_certify": s.n_certify,
        "max_samples": s.max_samples,
        "max_images": s.max_images,
        "max_image_bytes": s.max_image_bytes,
        "alpha": s.alpha,
        "cosine_threshold": s.cosine_threshold,
        "policy": {"mode": s.policy, "cosine": s.policy_cosine, "eps": s.policy_eps},
    }
