"""`GET /docs`: the API in Swagger UI, which comes from this service and not from another host."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse

from smoothgate.http.page_headers import HEADERS

PATH = "/docs"

router = APIRouter(include_in_schema=False)

_FOLDER = Path(str(files("smoothgate.http") / "docs_assets"))
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_ASSETS = {
    path.relative_to(_FOLDER).as_posix(): path for path in sorted(_FOLDER.rglob("*")) if path.is_file()
}


@router.get(PATH)
async def docs() -> FileResponse:
    """The page."""
    return _file("index.html")


@router.get(PATH + "/{name:path}")
async def asset(name: str) -> FileResponse:
    """One of its files."""
    if name not in _ASSETS:
        raise HTTPException(404, "Not Found")
    return _file(name)


def _file(name: str) -> FileResponse:
    path = _ASSETS[name]
    return FileResponse(path, media_type=_TYPES.get(path.suffix, "text/plain"), headers=HEADERS)
