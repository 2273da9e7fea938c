"""The page and its assets. They are the same files for everyone and need no key."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse

from smoothgate.bundled import BundledModel
from smoothgate.http.page_headers import HEADERS

_STATIC = Path(str(files("smoothgate.playground") / "static"))
_INDEX = "index.html"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def page_router(model: BundledModel | None) -> tuple[APIRouter, frozenset[str]]:
    """The routes of the page, with the sample pictures of a bundled model, and their paths."""
    router = APIRouter(include_in_schema=False)
    assets = dict(_files(_STATIC))
    if model is not None:
        assets |= {f"samples/{name}": path for name, path in _files(model.samples)}

    @router.get("/")
    async def index() -> FileResponse:
        """The page."""
        return _file(assets[_INDEX])

    @router.get("/playground/{name:path}")
    async def asset(name: str) -> FileResponse:
        """One of its files."""
        if name not in assets:
            raise HTTPException(404, "Not Found")
        return _file(assets[name])

    return router, frozenset({"/", *(f"/playground/{name}" for name in assets)})


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path


def _file(path: Path) -> FileResponse:
    return FileResponse(path, media_type=_TYPES.get(path.suffix), headers=HEADERS)
