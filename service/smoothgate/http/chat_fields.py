"""The fields that the routes of OpenAI and Anthropic share: `stream`, `smoothing`, and certificates."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError

from smoothgate.gate.answering import Answer, AnswerCertified, Certificates
from smoothgate.http import error_responses
from smoothgate.schemas import SmoothingOptions, as_json

Json = dict[str, Any]

_STREAM = TypeAdapter[bool | None](bool | None)


def is_streamed(body: Json) -> bool:
    """`stream` as vLLM reads it: "false" is false, and 2 is refused."""
    try:
        return bool(_STREAM.validate_python(body.get("stream")))
    except ValidationError as error:
        raise error_responses.of_validation(error.errors(), prefix="stream") from error


def smoothing_of(body: Json) -> SmoothingOptions:
    """The field `smoothing`.

    Raises:
        MalformedRequest: it is not what it should be.
    """
    value = body.get("smoothing")
    try:
        return SmoothingOptions.model_validate({} if value is None else value)
    except ValidationError as error:
        raise error_responses.of_validation(error.errors(), SmoothingOptions, prefix="smoothing") from error


def certified(source: Answer | Certificates | AnswerCertified) -> Json:
    """The field with the certificates of an answer, `certificates` or `answer_certificate`, if it has any."""
    match source:
        case Certificates(issued):
            return {"certificates": as_json(issued)}
        case AnswerCertified(one):
            return {"answer_certificate": one.model_dump(mode="json")}
    if source.answer_certificate is not None:
        return {"answer_certificate": source.answer_certificate.model_dump(mode="json")}
    return {} if source.certificates is None else {"certificates": as_json(source.certificates)}
