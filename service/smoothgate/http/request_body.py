"""Bodies of requests: JSON, or a form with files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile

from smoothgate.errors import MalformedRequest
from smoothgate.http import error_responses

Body = TypeVar("Body", bound=BaseModel)

#: Fields of a form that hold JSON.
FORM_JSON = frozenset({"smoothing", "history"})
# The code that walks through the values of a body is recursive.
_MOST_NESTED = 100


async def read(request: Request, model: type[Body]) -> tuple[Body, list[bytes]]:
    """The body as a model, and the files of a form.

    Raises:
        MalformedRequest: naming the field at fault.
    """
    files: list[bytes] = []
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        fields: dict[str, Any] = {}
        async with request.form() as form:
            for name, value in form.multi_items():
                if isinstance(value, UploadFile):
                    if name not in ("image", "images"):
                        raise MalformedRequest(f"Files are taken as image, not as {name}.", param=name)
                    files.append(await value.read())
                elif name in FORM_JSON:
                    fields[name] = parsed(value, name)
                else:
                    fields[name] = value
        body: Any = fields
    else:
        body = parsed(await request.body())
    try:
        return model.model_validate(body), files
    except ValidationError as error:
        raise error_responses.of_validation(error.errors()) from error


def parsed(text: str | bytes, param: str | None = None) -> Any:
    """Parse JSON.

    Raises:
        MalformedRequest: not JSON, or nested too deeply.
    """
    where = param or "The body"
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedRequest(f"{where} is not JSON.", param=param, code="invalid_json") from error
    level = [value]
    for _ in range(_MOST_NESTED):
        level = [item for container in level for item in _items(container)]
    if level:
        raise MalformedRequest(
            f"{where} is nested more than {_MOST_NESTED} deep.", param=param, code="invalid_json"
        )
    return value


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
