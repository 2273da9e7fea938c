"""Bodies of requests: JSON, or a form with files."""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile

from smoothgate.errors import MalformedRequest, UnsupportedBody
from smoothgate.http import error_responses
from smoothgate.http.form_body import form_of
from smoothgate.http.json_body import parsed
from smoothgate.off_loop import off_loop

Body = TypeVar("Body", bound=BaseModel)

_FORM = "multipart/form-data"
#: Fields of a form that hold JSON.
FORM_JSON = frozenset({"smoothing", "history"})
_PICTURES = frozenset({"image", "images", "image[]", "images[]"})


async def read(request: Request, model: type[Body]) -> tuple[Body, list[str | bytes]]:
    """The body as a model, and the pictures of a form: files, or URIs as text, in the order sent.

    Raises:
        MalformedRequest: naming the field at fault.
        UnsupportedBody: as `read_json`.
        TooLarge: as `json_body.parsed`.
    """
    pictures: list[str | bytes] = []
    body: Any
    if _content_type(request) == _FORM:
        _refuse_encoded(request)
        body = await _read_form(request, pictures)
    else:
        body = await read_json(request, or_form=True)
    try:
        return await off_loop(model.model_validate, body), pictures
    except ValidationError as error:
        raise error_responses.of_validation(error.errors(), model) from error


async def read_json(request: Request, *, or_form: bool = False) -> Any:
    """The JSON of a body; `or_form`: whether the route takes forms too, for the error.

    Raises:
        UnsupportedBody: the body says that it is something else, or compressed. Any web page may send plain
            text to any service, so a body without a content type is refused as well.
        MalformedRequest, TooLarge: as `json_body.parsed`.
    """
    _refuse_encoded(request)
    given = _content_type(request)
    if given != "application/json" and not (given.startswith("application/") and given.endswith("+json")):
        taken = "application/json or multipart/form-data" if or_form else "application/json"
        raise UnsupportedBody(f"The Content-Type of the body must be {taken}, not {given or 'missing'}.")
    return await parsed(await request.body())


async def read_object(request: Request) -> dict[str, Any]:
    """A body that is a JSON object.

    Raises:
        UnsupportedBody, MalformedRequest, TooLarge: as `read_json`; MalformedRequest for other JSON too.
    """
    body = await read_json(request)
    if not isinstance(body, dict):
        raise MalformedRequest("The body must be a JSON object.")
    return body


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _refuse_encoded(request: Request) -> None:
    if request.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise UnsupportedBody(
            "A compressed body is not read: send it without Content-Encoding.", code="unsupported_encoding"
        )


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
