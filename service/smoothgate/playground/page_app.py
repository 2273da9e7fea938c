"""The service with its page, where that is on."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI

from smoothgate.bundled import DEMO, bundled
from smoothgate.extras import MissingExtra
from smoothgate.gate.service import Service
from smoothgate.http import app as api
from smoothgate.playground.about import about_router
from smoothgate.playground.inspection import inspection_router
from smoothgate.playground.laboratory_plugin import LaboratoryPlugin, load_laboratory
from smoothgate.playground.likeness_route import likeness_router
from smoothgate.playground.page import page_router
from smoothgate.settings import Settings


def create_app(service: Service, settings: Settings) -> FastAPI:
    """As `smoothgate.http.app.create_app`.

    Raises:
        MissingExtra: the settings ask for the laboratory, and the extra `lab` is not installed.
    """
    if not settings.has_playground:
        return api.create_app(service, settings)
    model = bundled(settings.model)
    page, public = page_router(model)
    laboratory = _laboratory(settings)
    routers: list[APIRouter] = [
        page,
        about_router(settings, service.model.name, laboratory),
        inspection_router(service.answering, service.readiness),
    ]
    if model is DEMO:
        routers.append(likeness_router(service))
    if laboratory is not None:
        routers.append(laboratory.router(service))
    return api.create_app(service, settings, routers, public)


def _laboratory(settings: Settings) -> LaboratoryPlugin | None:
    """The laboratory where it is on; without the lab it is there only if the settings insist on it."""
    if not settings.has_laboratory:
        return None
    try:
        return load_laboratory()
    except MissingExtra:
        if settings.laboratory:
            raise
        return None
