"""The service with its page, where that is on."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI

from smoothgate.gate.service import Service
from smoothgate.http import app as api
from smoothgate.playground import page
from smoothgate.playground.about import about_router
from smoothgate.playground.inspection import inspection_router
from smoothgate.settings import Settings
from smoothgate_lab.laboratory.laboratory import Laboratory
from smoothgate_lab.laboratory.laboratory_route import laboratory_router


def create_app(service: Service, settings: Settings) -> FastAPI:
    """As `smoothgate.http.app.create_app`."""
    if not settings.has_playground:
        return api.create_app(service, settings)
    routers: list[APIRouter] = [
        page.router,
        about_router(settings, service.model.name),
        inspection_router(service.answering, service.readiness),
    ]
    if settings.has_laboratory:
        routers.append(laboratory_router(Laboratory(), service))
    return api.create_app(service, settings, routers, page.PUBLIC)
