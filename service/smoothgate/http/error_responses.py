"""Every failure in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, get_args

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from smoothgate.errors import MalformedRequest, PolicyNotMet, SmoothgateError, Unauthorized
from smoothgate.field_errors import explained
from smoothgate.logs import get_logger

_CLIENT_GONE = 499
_MOST_SHOWN = 100

#: Anthropic's clients know an error by a field beside it, and have words of their own for its kind.
MESSAGES = "/v1/messages"
# What Anthropic's API calls the kinds of errors.
_ANTHROPIC = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}

log = get_logger("api")


def body_of(error: SmoothgateError, path: str = "") -> dict[str, Any]:
    """The JSON of an error, with the certificates where a policy was not met.

    Args:
        error: what went wrong.
        path: of the request, whose clients may look for more than the one shape.
    """
    body: dict[str, Any] = {
        "error": {
            "message": _printable(error.message),
            "type": error.type,
            "param": None if error.param is None else _printable(error.param),
            "code": error.code,
        }
    }
    if isinstance(error, PolicyNotMet):
        body |= error.certified
    if path == MESSAGES:
        own = "invalid_request_error" if error.status < 500 else "api_error"
        body["type"] = "error"
        body["error"]["type"] = _ANTHROPIC.get(error.status, own)
    return body


def _printable(text: str) -> str:
    """Text without halves of surrogate pairs, which a client can name in JSON and UTF-8 cannot carry."""
    return text.encode(errors="backslashreplace").decode()


def response_of(error: SmoothgateError, path: str = "") -> JSONResponse:
    """The response to an error on this path, with Retry-After where a retry is sensible."""
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = retry_after(error.retry_after)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body_of(error, path), error.status, headers)


def retry_after(seconds: float) -> str:
    """The value of Retry-After: up to half as long again, so that clients do not all come back at once."""
    return str(max(1, math.ceil(seconds * random.uniform(1, 1.5))))


def of_validation(
    errors: Sequence[Any], model: type[BaseModel] | None = None, *, prefix: str = ""
) -> MalformedRequest:
    """The first error that pydantic found.

    Args:
        errors: of a `ValidationError`.
        model: what was validated; its fields are named to whoever sends another one.
        prefix: the field that was validated, where it is not the body.
    """
    param, message = explained(
        errors, prefix=prefix, fields=lambda path: () if model is None else _fields(model, path)
    )
    return MalformedRequest(message, param=param)


def _fields(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    """The fields of the model at a path of fields."""
    for name in path:
        annotation = model.model_fields[name].annotation
        model = next(
            each
            for each in (annotation, *get_args(annotation))
            if isinstance(each, type) and issubclass(each, BaseModel)
        )
    return list(model.model_fields)


def install(app: FastAPI) -> None:
    """Answer every exception of an app in this shape."""

    @app.exception_handler(SmoothgateError)
    async def _known(request: Request, error: SmoothgateError) -> JSONResponse:
        return response_of(error, request.url.path)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return response_of(of_validation(list(error.errors())), request.url.path)

    @app.exception_handler(ValidationError)
    async def _unhandled_model(request: Request, error: ValidationError) -> JSONResponse:
        log.error("a model of our own did not validate", error=str(error))
        return response_of(SmoothgateError("An internal error occurred."), request.url.path)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        headers = dict(error.headers or {})
        message, code = str(error.detail), None
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            # Whatever answers GET answers HEAD.
            headers["Allow"] = headers["Allow"].replace("GET", "GET, HEAD")
            message = f"{request.method} is not taken here. This path takes {headers['Allow']}."
            code = "method_not_allowed"
        elif error.status_code == HTTPStatus.NOT_FOUND:
            code = "not_found"
            if message == HTTPStatus.NOT_FOUND.phrase:
                message = (
                    f"There is nothing at {request.url.path[:_MOST_SHOWN]}. GET /docs lists what there is."
                )
        known = MalformedRequest(message, code=code)
        known.status = error.status_code
        response = response_of(known, request.url.path)
        response.headers.update(headers)
        return response

    @app.exception_handler(ClientDisconnect)
    async def _gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=_CLIENT_GONE)  # for the log, since nobody reads it
