"""The service with its page, where that is on."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI

from smoothgate.http import app as api
from smoothgate.playground import about, inspection, page
from smoothgate.settings import Settings
from smoothgate_lab.laboratory.laboratory import Laboratory
from smoothgate_lab.laboratory.laboratory_route import laboratory_router


def create_app(settings: Settings) -> FastAPI:
    """As `smoothgate.http.app.create_app`."""
    if not settings.has_playground:
        return api.create_app(settings)
    routers: list[APIRouter] = [page.router, about.router, inspection.router]
    if settings.has_laboratory:
        routers.append(laboratory_router(Laboratory()))
    return api.create_app(settings, routers, page.PUBLIC)
