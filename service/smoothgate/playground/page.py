"""The page and its assets. They are the same files for everyone and need no key."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse

from smoothgate.demo import bundled
from smoothgate.http.page_headers import HEADERS

router = APIRouter(include_in_schema=False)

_STATIC = Path(str(files("smoothgate.playground") / "static"))
_INDEX = "index.html"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def _found() -> Iterator[tuple[str, Path]]:
    for folder, prefix in ((_STATIC, ""), (bundled("samples"), "samples/")):
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                yield prefix + path.relative_to(folder).as_posix(), path


_ASSETS = dict(_found())
#: Paths that ask for no key.
PUBLIC = frozenset({"/", *(f"/playground/{name}" for name in _ASSETS)})


@router.get("/")
async def index() -> FileResponse:
    """The page."""
    return _file(_INDEX)


@router.get("/playground/{name:path}")
async def asset(name: str) -> FileResponse:
    """One of its files."""
    if name not in _ASSETS:
        raise HTTPException(404, "Not Found")
    return _file(name)


def _file(name: str) -> FileResponse:
    path = _ASSETS[name]
    return FileResponse(path, media_type=_TYPES.get(path.suffix), headers=HEADERS)
