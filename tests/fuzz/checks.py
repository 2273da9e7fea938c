"""What must hold of every answer."""

import json
import re
from typing import Any

from tests.fuzz.request import Json, Raw, Request
from tests.fuzz.sending import Answer

_NEVER = (500, 502)
# uvicorn's own answer to what is not HTTP.
_NO_HTTP = b"Invalid HTTP request received."
_FIELDS = {"message", "type", "param", "code"}
_OURS_TO_MEND = {"server_error", "engine_error", "api_error"}
# Where a stream does not end with [DONE].
_LAST_EVENTS = {"message_stop", "response.completed", "response.incomplete"}
_METHODS = {"get", "post"}


class Checks:
    """Knows what the service says of itself.

    Args:
        document: its `/openapi.json`.
    """

    def __init__(self, document: Json) -> None:
        self._documented = {
            (method.upper(), path): set(operation["responses"])
            for path, operations in document["paths"].items()
            for method, operation in operations.items()
            if method in _METHODS
        }

        self._templates = [
            (path, re.compile(re.sub(r"\\{[^}]+\\}", ".+", re.escape(path))))
            for path in document["paths"]
            if "{" in path
        ]

    def route(self, request: Request) -> str | None:
        """The path of the document that a request is for."""
        path = request.path.partition("?")[0]
        if (request.method, path) in self._documented:
            return path
        fitting = (template for template, pattern in self._templates if pattern.fullmatch(path))
        return next(fitting, None)

    def problem(self, request: Request | Raw, answer: Answer) -> str | None:
        """What is wrong with an answer."""
        if answer.status in _NEVER:
            return f"status {answer.status}"
        if b"Traceback (most recent call last)" in answer.body:
            return "a traceback in the body"
        if isinstance(request, Raw) and answer.status == 400 and answer.body == _NO_HTTP:
            return None
        if not answer.headers.get("x-request-id"):
            return "no X-Request-Id"
        if isinstance(request, Raw):
            return None if request.sent.startswith(b"HEAD") else _of_shape(answer, "")
        if request.method == "HEAD":
            return None
        return _of_shape(answer, request.path) or self._of_status(answer, request)

    def _of_status(self, answer: Answer, request: Request) -> str | None:
        documented = self._documented.get((request.method, self.route(request) or ""))
        if documented is not None and str(answer.status) not in documented:
            return f"status {answer.status} is not in the OpenAPI document"
        return None


def _of_shape(answer: Answer, path: str) -> str | None:
    if answer.status >= 400:
        body = _parsed(answer.body)
        if path == "/health/ready" and answer.status == 503 and set(body or ()) == {"status", "problems"}:
            return None
        return None if _is_error(body, path) else "not the error shape"
    if answer.headers.get("content-type", "").startswith("text/event-stream"):
        return _of_stream(answer.body, path)
    return None


def _of_stream(body: bytes, path: str) -> str | None:
    frames = [frame for frame in body.split(b"\n\n") if frame]
    data = frames[-1].rpartition(b"data: ")[2] if frames else b""
    last: Any = _parsed(data)
    if data == b"[DONE]" or (isinstance(last, dict) and last.get("type") in _LAST_EVENTS):
        return None
    if not _is_error(last, path):
        return "a stream that ends with neither its end nor an error"
    return "a stream that fails" if last["error"]["type"] in _OURS_TO_MEND else None


def _is_error(body: Any, path: str) -> bool:
    """Whether this is the one shape, with what some clients want beside it. A policy that is not met shows
    the certificates beside it.
    """
    if not isinstance(body, dict) or not isinstance(error := body.get("error"), dict):
        return False
    beside = {"certificates"} if error.get("code") == "policy_not_met" else set()
    if path.partition("?")[0].rstrip("/") in ("/v1/messages", "/v1/responses"):
        beside |= body.keys() & {"type", "code", "message", "param"}
    return (
        set(body) == {"error"} | beside
        and set(error) == _FIELDS
        and all(isinstance(error[name], str) and error[name] for name in ("message", "type", "code"))
        and isinstance(error["param"], str | None)
    )


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
