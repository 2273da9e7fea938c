"""The page with and without the lab, which brings the laboratory."""

import pytest
from fastapi import FastAPI

from smoothgate import extras
from smoothgate.extras import MissingExtra
from smoothgate.gate.build import build
from smoothgate.playground.page_app import create_app
from smoothgate.settings import Settings

ROUTE = "/v1/playground/attack"


def _app(settings: Settings) -> FastAPI:
    return create_app(build(settings), settings)


def _routes(app: FastAPI) -> set[str]:
    return {str(getattr(route, "path", "")) for route in app.routes}


@pytest.fixture
def _no_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "missing", lambda extra: ["mlxtend"] if extra == "lab" else [])


def test_the_lab_brings_the_laboratory() -> None:
    assert ROUTE in _routes(_app(Settings(_env_file=None)))


@pytest.mark.usefixtures("_no_lab")
def test_without_the_lab_the_page_has_no_laboratory() -> None:
    routes = _routes(_app(Settings(_env_file=None)))
    assert "/v1/playground" in routes
    assert ROUTE not in routes


@pytest.mark.usefixtures("_no_lab")
def test_a_laboratory_that_is_asked_for_names_the_extra() -> None:
    with pytest.raises(MissingExtra, match=r"SMOOTHGATE_LABORATORY.* 'smoothgate\[lab\]'"):
        _app(Settings(_env_file=None, laboratory=True))
