"""Requests that once ended in an internal error; `python -m tests.fuzz` found them."""

import json
from typing import Any

import pytest

from tests.whole_service import Gate, data_uri

HELLO = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
NESTED = "[" * 900 + "]" * 900


def _refused(response: Any, status: int, param: str | None, code: str) -> None:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, code)


@pytest.mark.parametrize(
    ("smoothing", "param"),
    [
        ({"eps": [5e-324]}, "eps"),
        ({"eps": [0.5, 1e308]}, "eps"),
        ({"target": {"eps": 1e-300}}, "target.eps"),
        ({"target": {"cosine": 0.5, "eps": 1e200}}, "target.eps"),
        ({"alpha": 5e-324}, "alpha"),
    ],
)
def test_numbers_without_measure(quick_gate: Gate, smoothing: dict[str, Any], param: str) -> None:
    body = {"images": [data_uri("seven.png")], "smoothing": smoothing}
    _refused(quick_gate.http.post("/v1/certify", json=body), 422, f"smoothing.{param}", "out_of_range")


@pytest.mark.parametrize(
    ("path", "field"),
    [("/v1/chat", "history"), ("/v1/certify", "images"), ("/v1/chat/completions", "tools")],
)
def test_nesting_without_measure(quick_gate: Gate, path: str, field: str) -> None:
    text = json.dumps(HELLO | {field: "@"}).replace('"@"', NESTED)
    response = quick_gate.http.post(path, content=text, headers={"Content-Type": "application/json"})
    _refused(response, 400, None, "invalid_json")


def test_nesting_without_measure_in_a_form(quick_gate: Gate) -> None:
    form = {"message": "x", "history": NESTED}
    files = {"image": b"x"}
    _refused(quick_gate.http.post("/v1/chat", data=form, files=files), 400, "history", "invalid_json")


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": [{"type": "\ud800"}]}]},
        {"messages": [{"role": "user", "content": "\ud800"}], "max_tokens": 2},
        HELLO | {"model": "\ud800"},
        HELLO | {"smoothing": {"\ud800": 1}},
    ],
)
def test_half_a_character(quick_gate: Gate, body: dict[str, Any]) -> None:
    text = json.dumps(body)
    response = quick_gate.http.post(
        "/v1/chat/completions", content=text, headers={"Content-Type": "application/json"}
    )
    assert 400 <= response.status_code < 500, response.text
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.engine
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("structured_outputs", {"grammar": "root ::="}),
        (
            "response_format",
            {"type": "json_schema", "json_schema": {"name": "a", "schema": {"$ref": "#"}}},
        ),
    ],
)
def test_grammars_that_are_none(gate: Gate, field: str, value: Any, stream: bool) -> None:
    """vLLM fails on them, or answers with nothing: the first grammar of all chooses between its backends."""
    response = gate.http.post("/v1/chat/completions", json=HELLO | {field: value, "stream": stream})
    assert response.status_code in (200, 422), response.text
    assert "engine_error" not in response.text
