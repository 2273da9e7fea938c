"""The service with its page, where that is on."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI

from smoothgate.extras import MissingExtra
from smoothgate.http import app as api
from smoothgate.playground import inspection, page
from smoothgate.playground.about import about_router
from smoothgate.playground.laboratory_plugin import LaboratoryPlugin, load_laboratory
from smoothgate.settings import Settings


def create_app(settings: Settings) -> FastAPI:
    """As `smoothgate.http.app.create_app`.

    Raises:
        MissingExtra: the settings ask for the laboratory, and the extra `lab` is not installed.
    """
    if not settings.has_playground:
        return api.create_app(settings)
    laboratory = _laboratory(settings)
    routers: list[APIRouter] = [page.router, about_router(laboratory), inspection.router]
    if laboratory is not None:
        routers.append(laboratory.router)
    return api.create_app(settings, routers, page.PUBLIC)


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
