"""Bodies of requests: JSON, or a form with files."""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile

from smoothgate.errors import MalformedRequest
from smoothgate.http import error_responses
from smoothgate.http.json_body import parsed
from smoothgate.off_loop import off_loop

Body = TypeVar("Body", bound=BaseModel)

#: Fields of a form that hold JSON.
FORM_JSON = frozenset({"smoothing", "history"})


async def read(request: Request, model: type[Body]) -> tuple[Body, list[bytes]]:
    """The body as a model, and the files of a form.

    Raises:
        MalformedRequest: naming the field at fault.
        TooLarge: as `json_body.parsed`.
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
                    fields[name] = await parsed(value, name)
                else:
                    fields[name] = value
        body: Any = fields
    else:
        body = await parsed(await request.body())
    try:
        return await off_loop(model.model_validate, body), files
    except ValidationError as error:
        raise error_responses.of_validation(error.errors()) from error
