"""Request bodies of the REST face: JSON, or a form with files."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile

from service.api import errors
from service.errors import MalformedRequest

Body = TypeVar("Body", bound=BaseModel)

# Fields of a form that hold JSON.
_FORM_JSON = ("smoothing", "history")


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
                elif name in _FORM_JSON:
                    fields[name] = _json(value, name)
                else:
                    fields[name] = value
        body: Any = fields
    else:
        body = _json(await request.body(), None)
    try:
        return model.model_validate(body), files
    except ValidationError as error:
        raise errors.of_validation(error.errors()) from error


def _json(text: str | bytes, param: str | None) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        where = param or "The body"
        raise MalformedRequest(f"{where} is not JSON.", param=param, code="invalid_json") from error
