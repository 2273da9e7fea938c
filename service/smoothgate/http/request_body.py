"""Bodies of requests: JSON, or a form with files."""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile

from smoothgate.errors import MalformedRequest
from smoothgate.http import error_responses
from smoothgate.http.form_body import form_of
from smoothgate.http.json_body import parsed
from smoothgate.off_loop import off_loop

Body = TypeVar("Body", bound=BaseModel)

#: Fields of a form that hold JSON.
FORM_JSON = frozenset({"smoothing", "history"})
_PICTURES = frozenset({"image", "images", "image[]", "images[]"})


async def read(request: Request, model: type[Body]) -> tuple[Body, list[str | bytes]]:
    """The body as a model, and the pictures of a form: files, or URIs as text, in the order sent.

    Raises:
        MalformedRequest: naming the field at fault.
        TooLarge: as `json_body.parsed`.
    """
    pictures: list[str | bytes] = []
    body: Any
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        body = await _read_form(request, pictures)
    else:
        body = await parsed(await request.body())
    try:
        return await off_loop(model.model_validate, body), pictures
    except ValidationError as error:
        raise error_responses.of_validation(error.errors()) from error


async def _read_form(request: Request, pictures: list[str | bytes]) -> dict[str, Any]:
    """The fields of a form; its pictures are added to a list."""
    fields: dict[str, Any] = {}
    form = await form_of(request)
    try:
        for name, value in form.multi_items():
            if name in _PICTURES:
                pictures.append(value if isinstance(value, str) else await value.read())
            elif isinstance(value, UploadFile):
                raise MalformedRequest(f"Files are taken as image, not as {name}.", param=name)
            elif name in fields:
                raise MalformedRequest(f"The form holds {name} more than once.", param=name)
            else:
                fields[name] = await parsed(value, name) if name in FORM_JSON else value
    finally:
        await form.close()
    return fields
