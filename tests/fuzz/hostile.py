"""What is meant to cost: values without number, texts without end, forms cut off, bodies of other kinds."""

import gzip
import json
from collections.abc import Callable, Iterator
from random import Random

from tests.fuzz.images import pictures
from tests.fuzz.request import FEW_TOKENS, LEAST, Json, Request, form, form_request, json_request

SOURCE = "hostile"

_PATHS = (
    "/v1/chat", "/v1/chat/completions", "/v1/certify", "/v1/responses", "/v1/messages", "/v1/embeddings",
)  # fmt: skip
# About as much as the service under test takes in one body.
_MANY_BYTES = 3 << 20


def requests(rng: Random) -> Iterator[Request]:
    """Without end."""
    while True:
        kind, make = rng.choice(list(_KINDS.items()))
        yield make(rng, kind)


def _asked(**fields: object) -> Json:
    return {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": FEW_TOKENS} | fields


def _many_values(rng: Random, what: str) -> Request:
    value = rng.choice(("[],", '{"a":0},', "0,", '"",', "1e5,"))
    body = json.dumps(_asked(a=["@"])).replace('"@"', value * (_MANY_BYTES // len(value)) + "0")
    return json_request(SOURCE, what, rng.choice(_PATHS), body)


def _as_many_as_are_taken(rng: Random, what: str) -> Request:
    body = _asked(a=rng.choice(([[]] * 45_000, [{"a": {}}] * 30_000, {str(n): 0 for n in range(90_000)})))
    return json_request(SOURCE, what, rng.choice(_PATHS), body)


def _deep(rng: Random, what: str) -> Request:
    depth = rng.choice((99, 101, 10_000, 100_000))
    return json_request(SOURCE, what, rng.choice(_PATHS), '{"a":' * depth + "0" + "}" * depth)


def _giant_text(rng: Random, what: str) -> Request:
    text = rng.choice(("a", "<image>", "\\", "é", "\u2028", " "))
    many = text * (_MANY_BYTES // len(json.dumps(text)))
    path, body = rng.choice((
        ("/v1/chat", {"message": many, "max_tokens": FEW_TOKENS}),
        ("/v1/chat/completions", _asked(messages=[{"role": "user", "content": many}])),
        ("/v1/chat/completions", _asked(stop=[many])),
        ("/v1/certify", {"images": [f"data:image/png;base64,{many}"]}),
        ("/v1/responses", {"input": many, "max_output_tokens": FEW_TOKENS}),
        ("/v1/messages", _asked(system=many)),
        ("/v1/embeddings", {"messages": [{"role": "user", "content": many}]}),
    ))  # fmt: skip
    return json_request(SOURCE, what, path, body)


def _cut_form(rng: Random, what: str) -> Request:
    whole = form({"message": "Hi", "smoothing": LEAST}, [pictures()["png"]] * 2)
    cut = len(whole) - rng.choice((1, 3, 4, 5, 25, len(whole) // 2))
    return form_request(SOURCE, what, "/v1/chat", whole[:cut])


def _other_type(rng: Random, what: str) -> Request:
    kind = rng.choice(("text/plain", "application/x-www-form-urlencoded", "image/png", "", "multipart/mixed"))
    body = json.dumps(_asked()).encode()
    return Request(SOURCE, what, "POST", rng.choice(_PATHS), (("Content-Type", kind),), body)


def _compressed(rng: Random, what: str) -> Request:
    headers = (("Content-Type", "application/json"), ("Content-Encoding", rng.choice(("gzip", "br", "x"))))
    body = gzip.compress(b" " * (64 << 20) if rng.random() < 0.2 else json.dumps(_asked()).encode())
    return Request(SOURCE, what, "POST", rng.choice(_PATHS), headers, body)


def _refused_fields(rng: Random, what: str) -> Request:
    fields = rng.choice((
        {"n": 300}, {"kv_transfer_params": {"remote_host": "169.254.169.254"}}, {"priority": -1},
        {"logprobs": True, "top_logprobs": 10_000}, {"chat_template_kwargs": 5}, {"structured_outputs": 5},
        {"tools": [5]}, {"tools": 5}, {"response_format": [5]}, {"stream_options": 5}, {"logit_bias": 5},
    ))  # fmt: skip
    return json_request(SOURCE, what, "/v1/chat/completions", _asked(**fields))


_KINDS: dict[str, Callable[[Random, str], Request]] = {
    "values without number": _many_values,
    "as many values as are taken": _as_many_as_are_taken,
    "deep": _deep,
    "a text without end": _giant_text,
    "a form cut off": _cut_form,
    "another content type": _other_type,
    "a compressed body": _compressed,
    "fields that are refused": _refused_fields,
}
