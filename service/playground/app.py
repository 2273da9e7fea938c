"""The service with its page, where that is on."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI

from service.api import app as api
from service.playground import about, look, page
from service.playground.laboratory import Laboratory
from service.playground.routes import laboratory_router
from service.settings import Settings


def create_app(settings: Settings) -> FastAPI:
    """As `service.api.app.create_app`."""
    if not settings.has_playground:
        return api.create_app(settings)
    routers: list[APIRouter] = [page.router, about.router, look.router]
    if settings.has_laboratory:
        routers.append(laboratory_router(Laboratory()))
    return api.create_app(settings, routers, page.PUBLIC)
