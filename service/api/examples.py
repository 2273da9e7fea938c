"""What `/docs` shows: examples that work when pasted, with a bundled sample picture inside."""

from __future__ import annotations

import base64
from functools import cache
from typing import Any

from service.api.schemas import CertifyRequest, ChatRequest, ErrorAnswer
from service.demo import bundled

Json = dict[str, Any]

SAMPLE = "seven.png"

ERRORS: dict[int | str, Json] = {
    400: {"model": ErrorAnswer, "description": "Malformed"},
    413: {"model": ErrorAnswer, "description": "Too large"},
    422: {"model": ErrorAnswer, "description": "Well-formed, but it cannot be served"},
    502: {"model": ErrorAnswer, "description": "The engine failed"},
    503: {"model": ErrorAnswer, "description": "Not ready; see Retry-After"},
    504: {"model": ErrorAnswer, "description": "Not answered in time"},
}


@cache
def _sample() -> str:
    data = (bundled("samples") / SAMPLE).read_bytes()
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def chat() -> Json:
    """The bodies of `POST /v1/chat`."""
    example = {"message": "What digit is shown?", "images": [_sample()], "temperature": 0}
    return _bodies(ChatRequest.model_json_schema(), example, {"message": {"type": "string"}})


def certify() -> Json:
    """The bodies of `POST /v1/certify`."""
    return _bodies(CertifyRequest.model_json_schema(), {"images": [_sample()]}, {})


def completions() -> Json:
    """The body of `POST /v1/chat/completions`."""
    content = [
        {"type": "image_url", "image_url": {"url": _sample()}},
        {"type": "text", "text": "What digit is shown?"},
    ]
    schema: Json = {
        "type": "object",
        "required": ["messages"],
        "properties": {
            "model": {"type": "string"},
            "messages": {"type": "array", "items": {"type": "object"}, "minItems": 1},
            "stream": {"type": "boolean"},
            "smoothing": {"$ref": "#/components/schemas/SmoothingOptions"},
        },
        "additionalProperties": True,
    }
    example = {"messages": [{"role": "user", "content": content}], "temperature": 0}
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schema, "example": example}},
        }
    }


def _bodies(schema: Json, example: Json, fields: Json) -> Json:
    schema = {key: value for key, value in schema.items() if key not in ("$defs", "example")}
    files = {"type": "array", "items": {"type": "string", "format": "binary"}}
    smoothing = {"type": "string", "description": "The smoothing options as JSON."}
    form = {"type": "object", "properties": fields | {"image": files, "smoothing": smoothing}}
    return {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": _with_shared_definitions(schema), "example": example},
                "multipart/form-data": {"schema": form},
            },
        }
    }


def _with_shared_definitions(value: Any) -> Any:
    """Point references at the document's own definitions instead of the schema's."""
    if isinstance(value, dict):
        return {
            key: item.replace("#/$defs/", "#/components/schemas/")
            if key == "$ref"
            else _with_shared_definitions(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_with_shared_definitions(item) for item in value]
    return value
