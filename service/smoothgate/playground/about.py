"""`GET /v1/playground`: what the page has to know in order to offer only what this service takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter

from smoothgate import __version__
from smoothgate.bundled import DEMO, bundled
from smoothgate.playground.laboratory_plugin import LaboratoryPlugin
from smoothgate.settings import Settings


def about_router(settings: Settings, model_name: str, laboratory: LaboratoryPlugin | None) -> APIRouter:
    """The route of a page that has this laboratory, or none."""
    router = APIRouter(include_in_schema=False)
    facts = _facts(settings, model_name, laboratory)

    @router.get("/v1/playground")
    async def about() -> dict[str, Any]:
        """The model, the limits, and what is switched on."""
        return facts

    return router


def _facts(s: Settings, model_name: str, laboratory: LaboratoryPlugin | None) -> dict[str, Any]:
    model = bundled(s.model)
    return {
        "version": __version__,
        "model": model_name,
        "likeness": model is DEMO,
        "laboratory": None if laboratory is None else laboratory.facts(),
        "metrics": s.metrics_port is None,
        "samples": [] if model is None else sorted(path.stem for path in model.samples.iterdir()),
        "hint": "Draw, drop or paste an image" if model is None else model.hint,
        "first_sample": None if model is None else Path(model.sample).stem,
        "questions": [] if model is None else list(model.questions),
        "choices": ["yes", "no"] if model is None else list(model.choices),
        "keys": s.accounts is not None,
        "sigma": {"least": s.sigma_min, "usual": s.sigma, "most": s.sigma_max},
        "n_select": s.n_select,
        "n_certify": s.n_certify,
        "max_samples": s.max_samples,
        "max_image_bytes": s.max_image_bytes,
        "policy_radius": s.policy_radius,
    }
