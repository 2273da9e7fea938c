"""What `/docs` shows: the errors of each route, and examples that hold a picture and work when pasted."""

from __future__ import annotations

from functools import cache
from typing import Any

from smoothgate.demo import bundled
from smoothgate.http.request_body import FORM_JSON
from smoothgate.schemas import CertifyRequest, ChatRequest, ErrorAnswer, RefusalAnswer
from smoothgate.vision.png import png_data_uri

Json = dict[str, Any]

SAMPLE = "seven.png"

Responses = dict[int | str, Json]


def _error(description: str, *headers: str) -> Json:
    text = {"schema": {"type": "string"}}
    return {"model": ErrorAnswer, "description": description, "headers": dict.fromkeys(headers, text)}


#: Of every path that asks for a key.
DOOR: Responses = {
    403: _error("From a page of another site, or under a foreign name, where the service asks for no key"),
    401: _error("No valid API key, where the service has accounts", "WWW-Authenticate"),
    429: _error("Too much at a time, or more than this key may", "Retry-After"),
    503: _error("Not ready, or shutting down", "Retry-After"),
}
#: Of every path that works.
ERRORS: Responses = DOOR | {
    400: _error("Malformed"),
    408: _error("The body took too long to come in"),
    413: _error("Too large"),
    415: _error("A content type or encoding that is not read"),
    422: {
        "model": RefusalAnswer,
        "description": "Well-formed, but it cannot be served; or a policy is not met",
    },
    500: _error("Failed"),
    502: _error("The engine failed"),
    504: _error("Not answered in time"),
}
NOT_FOUND: Responses = {404: _error("No such thing here")}
STREAM: Responses = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "The answer"}
}


@cache
def _sample() -> str:
    data = (bundled("samples") / SAMPLE).read_bytes()
    return png_data_uri(data)


def chat() -> Json:
    """The bodies of `POST /v1/chat`."""
    example = {"message": "What digit is shown?", "images": [_sample()], "temperature": 0}
    return _bodies(ChatRequest.model_json_schema(), example)


def certify() -> Json:
    """The bodies of `POST /v1/certify`."""
    return _bodies(CertifyRequest.model_json_schema(), {"images": [_sample()]})


def completions() -> Json:
    """The body of `POST /v1/chat/completions`."""
    content = [
        {"type": "image_url", "image_url": {"url": _sample()}},
        {"type": "text", "text": "What digit is shown?"},
    ]
    properties: Json = {"messages": {"type": "array", "items": {"type": "object"}, "minItems": 1}}
    return _open_body("messages", properties, {"messages": [{"role": "user", "content": content}]})


def responses() -> Json:
    """The body of `POST /v1/responses`."""
    content = [
        {"type": "input_image", "image_url": _sample()},
        {"type": "input_text", "text": "What digit is shown?"},
    ]
    properties: Json = {
        "input": {
            "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}, "minItems": 1}]
        },
        "instructions": {"type": "string"},
    }
    return _open_body("input", properties, {"input": [{"role": "user", "content": content}]})


def messages() -> Json:
    """The body of `POST /v1/messages`."""
    source = {"type": "base64", "media_type": "image/png", "data": _sample().partition(",")[2]}
    content = [{"type": "image", "source": source}, {"type": "text", "text": "What digit is shown?"}]
    properties: Json = {
        "messages": {"type": "array", "items": {"type": "object"}, "minItems": 1},
        "max_tokens": {"type": "integer", "minimum": 1},
    }
    example = {"messages": [{"role": "user", "content": content}], "max_tokens": 40}
    body = _open_body("messages", properties, example)
    body["requestBody"]["content"]["application/json"]["schema"]["required"].append("max_tokens")
    return body


def embeddings() -> Json:
    """The body of `POST /v1/embeddings`."""
    picture = {"type": "image_url", "image_url": {"url": _sample()}}
    schema: Json = {
        "type": "object",
        "required": ["messages"],
        "properties": {
            "model": {"type": "string"},
            "messages": {"type": "array", "items": {"type": "object"}, "minItems": 1},
            "encoding_format": {"enum": ["float", "base64"]},
            "smoothing": {"$ref": "#/components/schemas/SmoothingOptions"},
        },
    }
    example = {"messages": [{"role": "user", "content": [picture]}], "encoding_format": "base64"}
    content = {"application/json": {"schema": schema, "example": example}}
    return {"requestBody": {"required": True, "content": content}}


def _open_body(field: str, properties: Json, example: Json) -> Json:
    """A body that holds more than is listed; `field` must be there."""
    schema: Json = {
        "type": "object",
        "required": [field],
        "properties": {
            "model": {"type": "string"},
            **properties,
            "stream": {"type": "boolean"},
            "smoothing": {"$ref": "#/components/schemas/SmoothingOptions"},
        },
        "additionalProperties": True,
    }
    content = {"application/json": {"schema": schema, "example": example | {"temperature": 0}}}
    return {"requestBody": {"required": True, "content": content}}


def _bodies(schema: Json, example: Json) -> Json:
    """A body as JSON, and as a form: pictures are files, and fields that hold more than a value are JSON."""
    schema = {key: value for key, value in schema.items() if key not in ("$defs", "example")}
    fields = {name: field for name, field in schema["properties"].items() if name != "images"}
    for name in FORM_JSON & fields.keys():
        fields[name] = {"type": "string", "description": "As JSON."}
    files = {"type": "array", "items": {"type": "string", "format": "binary"}, "description": "The pictures."}
    form = schema | {"properties": fields | {"image": files}}
    return {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": _with_shared_definitions(schema), "example": example},
                "multipart/form-data": {"schema": _with_shared_definitions(form)},
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
