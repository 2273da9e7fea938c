"""vLLM's refusals and failures as exceptions of `smoothgate.errors`.

An error that a client can correct keeps vLLM's message.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

import httpx

from smoothgate.errors import (
    EngineFailed,
    EngineTimedOut,
    NotReady,
    Overloaded,
    RequestError,
    SmoothgateError,
    TooLarge,
    Unacceptable,
    UnknownModel,
)
from smoothgate.field_errors import explained
from smoothgate.logs import get_logger

log = get_logger("engine")

RETRY_SECONDS = 5.0
REFUSALS: dict[int, type[RequestError]] = {
    400: RequestError,
    404: UnknownModel,
    413: TooLarge,
    422: Unacceptable,
}
# vLLM compiles a grammar from these fields after it has accepted the request. If it cannot, it answers with
# status 500, although the client could correct the grammar.
_CONSTRAINTS = ("structured_outputs", "response_format")
_MOST_SHOWN = 40
# What vLLM adds to a sentence that names the field already.
_PARAMETER = re.compile(r" \(parameter=.*\)$", re.DOTALL)


def constraint_of(body: dict[str, Any]) -> str | None:
    """The field by which a request constrains its answer to a grammar, or None."""
    return next((name for name in _CONSTRAINTS if body.get(name) not in (None, {"type": "text"})), None)


def from_response(response: httpx.Response, constraint: str | None = None) -> SmoothgateError:
    """The exception for a response with an error status.

    Args:
        response: read to its end. Its body is OpenAI's error object.
        constraint: `constraint_of` the request.
    """
    try:
        detail = json.loads(response.content)["error"]
        message, param = str(detail["message"]), detail.get("param")
    except (ValueError, KeyError, TypeError, AttributeError):
        message, param = f"The engine answered with status {response.status_code}.", None
    return _failure(response.status_code, message, param, response.headers.get("Retry-After"), constraint)


def from_frame(detail: Any, constraint: str | None = None) -> SmoothgateError:
    """The exception for an error frame of a stream.

    Args:
        detail: the frame's `error`. Its `code` is the status that a response would have had.
        constraint: `constraint_of` the request.
    """
    if not isinstance(detail, dict):
        return EngineFailed("The engine reported a failure.")
    code = detail.get("code")
    status = code if isinstance(code, int) else 500
    return _failure(status, str(detail.get("message")), detail.get("param"), None, constraint)


def _failure(
    status: int, message: str, param: Any, retry_after: str | None, constraint: str | None
) -> SmoothgateError:
    if status in REFUSALS:
        field = param.removeprefix("body.") if isinstance(param, str) else None
        field, message = _in_english(message) or (field, _PARAMETER.sub("", message))
        return REFUSALS[status](message, param=field)
    log.warning("engine failure", status=status, message=message)
    if status == 500 and constraint is not None:
        return Unacceptable(
            f"The engine failed on this request. Most likely it cannot make a grammar from {constraint}.",
            param=constraint,
            code="bad_grammar",
        )
    seconds = float(retry_after) if retry_after and retry_after.isdecimal() else RETRY_SECONDS
    if status == 429:
        return Overloaded("The engine is overloaded.", retry_after=seconds)
    if status == 503:
        return NotReady("The engine is not ready.", retry_after=seconds)
    if status in (408, 504):
        return EngineTimedOut("The engine did not answer in time.")
    return EngineFailed(f"The engine failed with status {status}.")


# pydantic's own text of several errors, as vLLM hands on some.
_PLAIN = re.compile(r"\d+ validation errors? for \w+\n.*\n\s+(?P<what>[^\[\n]+?) \[type=")


def _in_english(message: str) -> tuple[str | None, str] | None:
    """The field and a sentence, where the message is a list of pydantic's errors; None where it is not.

    vLLM writes a line with the number of errors, and then each error as Python writes a dictionary. It cuts
    long ones.
    """
    errors = []
    for line in message.split("\n")[1:]:
        try:
            error = ast.literal_eval(line.strip())
            errors.append(error | {"loc": error["loc"].split(".")})
        except (ValueError, SyntaxError, TypeError, KeyError, AttributeError):
            break
    if errors:
        return explained(errors, shown=_shown)
    plain = _PLAIN.match(message)
    return None if plain is None else (None, f"A value of the request cannot be taken: {plain['what']}.")


def _shown(given: Any) -> str | None:
    """vLLM describes lists and objects in angle brackets, and has cut the rest."""
    text = str(given)
    return None if text.startswith("<") else text[:_MOST_SHOWN]
