"""What `/docs` shows: the errors of each route, and examples that hold a picture and work when pasted."""

from __future__ import annotations

from functools import cache
from typing import Any

from PIL import Image

from smoothgate.bundled import DEMO
from smoothgate.http.request_body import FORM_JSON
from smoothgate.schemas import CertifyRequest, ChatRequest, ErrorAnswer, RefusalAnswer
from smoothgate.vision.png import encode_png, png_data_uri

Json = dict[str, Any]


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
_STREAM = {
    "schema": {
        "type": "string",
        "description": "Server-sent events. The event that ends the answer carries `certificates` or "
        "`answer_certificate`, in the form that they have in the JSON answer.",
    }
}
#: What a route answers that also streams.
STREAM: Responses = {
    200: {"content": {"text/event-stream": _STREAM}, "description": "The answer and what is certified"}
}

_QUESTION = "What digit is shown?"
_TARGET = {"target": {"cosine": 0.5, "eps": 0.25}}
_OF_ANSWER = {"certify": "answer", "target": {"eps": 0.1}}


@cache
def _sample() -> str:
    """A sample picture of a kilobyte: at the size of the encoder's input, in 32 colours."""
    sample = Image.open(DEMO.samples / DEMO.sample).convert("RGB")
    small = sample.resize((48, 48), Image.Resampling.BOX).quantize(32)
    return png_data_uri(encode_png(small))


def chat() -> Json:
    """The bodies of `POST /v1/chat`."""
    plain = {"message": _QUESTION, "images": [_sample()], "temperature": 0}
    answered = [{"role": "user", "content": _content()}, {"role": "assistant", "content": "The digit is 7."}]
    examples = {
        "picture": _example("A question about a picture", plain),
        "target": _example("Sample until a bound is certified", plain | {"smoothing": _TARGET}),
        "answer": _example("Certify the answer itself", plain | {"smoothing": _OF_ANSWER}),
        "stream": _example("Answer as server-sent events", plain | {"stream": True}),
        "history": _example(
            "Go on with a chat", {"message": "Which colour has it?", "history": answered, "temperature": 0}
        ),
    }
    return _bodies(ChatRequest.model_json_schema(), examples)


def certify() -> Json:
    """The bodies of `POST /v1/certify`."""
    plain = {"images": [_sample()]}
    examples = {
        "picture": _example("Certify a picture", plain),
        "target": _example("Sample until a bound is certified", plain | {"smoothing": _TARGET}),
    }
    return _bodies(CertifyRequest.model_json_schema(), examples)


def completions() -> Json:
    """The body of `POST /v1/chat/completions`."""
    plain = {"messages": [{"role": "user", "content": _content()}], "temperature": 0}
    examples = {
        "picture": _example("A question about a picture", plain),
        "target": _example("Sample until a bound is certified", plain | {"smoothing": _TARGET}),
        "answer": _example("Certify the answer itself", plain | {"smoothing": _OF_ANSWER}),
        "stream": _example("Answer as server-sent events", plain | {"stream": True}),
    }
    return _open_body("messages", _MESSAGES, examples)


def responses() -> Json:
    """The body of `POST /v1/responses`."""
    content = [
        {"type": "input_image", "image_url": _sample()},
        {"type": "input_text", "text": _QUESTION},
    ]
    properties: Json = {
        "input": {
            "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}, "minItems": 1}]
        },
        "instructions": {"type": "string"},
    }
    plain = {"input": [{"role": "user", "content": content}], "temperature": 0}
    return _open_body("input", properties, {"picture": _example("A question about a picture", plain)})


def messages() -> Json:
    """The body of `POST /v1/messages`."""
    source = {"type": "base64", "media_type": "image/png", "data": _sample().partition(",")[2]}
    content = [{"type": "image", "source": source}, {"type": "text", "text": _QUESTION}]
    properties = _MESSAGES | {"max_tokens": {"type": "integer", "minimum": 1}}
    plain = {"messages": [{"role": "user", "content": content}], "max_tokens": 40, "temperature": 0}
    body = _open_body("messages", properties, {"picture": _example("A question about a picture", plain)})
    body["requestBody"]["content"]["application/json"]["schema"]["required"].append("max_tokens")
    return body


def embeddings() -> Json:
    """The body of `POST /v1/embeddings`."""
    schema: Json = {
        "type": "object",
        "required": ["messages"],
        "properties": {
            "model": {"type": "string"},
            **_MESSAGES,
            "encoding_format": {"enum": ["float", "base64"]},
            "smoothing": {"$ref": "#/components/schemas/SmoothingOptions"},
        },
    }
    picture = {"type": "image_url", "image_url": {"url": _sample()}}
    plain = {"messages": [{"role": "user", "content": [picture]}], "encoding_format": "base64"}
    examples = {"picture": _example("The features of a picture", plain)}
    content = {"application/json": {"schema": schema, "examples": examples}}
    return {"requestBody": {"required": True, "content": content}}


def _open_body(field: str, properties: Json, examples: Json) -> Json:
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
    content = {"application/json": {"schema": schema, "examples": examples}}
    return {"requestBody": {"required": True, "content": content}}


_MESSAGE: Json = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": {"type": "string", "description": "`system`, `user`, `assistant` or `tool`."},
        "content": {"description": "Text, or a list of parts: `text` and `image_url`, as OpenAI has them."},
    },
    "additionalProperties": True,
}
_MESSAGES: Json = {"messages": {"type": "array", "items": _MESSAGE, "minItems": 1}}


def _content() -> list[Json]:
    return [
        {"type": "image_url", "image_url": {"url": _sample()}},
        {"type": "text", "text": _QUESTION},
    ]


def _example(summary: str, value: Json) -> Json:
    return {"summary": summary, "value": value}


def _bodies(schema: Json, examples: Json) -> Json:
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
                "application/json": {"schema": _with_shared_definitions(schema), "examples": examples},
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
