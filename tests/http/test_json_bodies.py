"""JSON is read as every parser reads it, or refused."""

import json
from typing import Any

import pytest

from tests.fake_vllm import FakeVllm
from tests.whole_service import SAMPLES, Gate

PNG = (SAMPLES / "seven.png").read_bytes()
JSON = {"Content-Type": "application/json"}
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}]}


def _said(response: Any) -> str:
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["code"] == "invalid_json"
    message: str = error["message"]
    return message


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is not JSON: Expecting value at line 1, column 1."),
        (b'{"message": "a",}', "is not JSON: "),
        (b"{'message': 'a'}", "is not JSON: Expecting property name enclosed in double quotes at line 1"),
        (b'{"message": "a"} b', "is not JSON: Extra data at line 1, column 18."),
        (b'{"message": "a", "message": "b"}', 'holds "message" twice in one object.'),
        (b'{"smoothing": {"sigma": 1, "alpha": 1, "sigma": 2}}', 'holds "sigma" twice in one object.'),
        (b'{"temperature": NaN}', "holds NaN, which is not JSON."),
        (b'{"temperature": -Infinity}', "holds -Infinity, which is not JSON."),
        (b'{"temperature": 1e999}', "holds a number that is too large: 1e999."),
        (b'{"max_tokens": ' + b"9" * 5000 + b"}", "holds a whole number of too many digits."),
        (b"[" * 99_000, "is nested too deeply."),
        ('{"message": "é"}'.encode("latin-1"), "must be in UTF-8; byte 13 is not."),
        ('{"message": "a"}'.encode("utf-16"), "must be in UTF-8; it looks like UTF-16."),
        ('{"message": "a"}'.encode("utf-16-be"), "must be in UTF-8; it looks like UTF-16-BE."),
        ('{"message": "a"}'.encode("utf-32"), "must be in UTF-8; it looks like UTF-32."),
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat", "/v1/chat/completions", "/v1/certify"])
def test_what_parsers_disagree_about_is_refused(
    quick_gate: Gate, vllm: FakeVllm, path: str, content: bytes, text: str
) -> None:
    response = quick_gate.http.post(path, content=content, headers=JSON)
    assert _said(response).startswith(f"The body {text}")
    assert vllm.bodies == []


def test_a_field_of_a_form_is_held_to_the_same(quick_gate: Gate) -> None:
    fields = {"message": "x", "smoothing": '{"sigma": 0.5, "sigma": 0.1}'}
    response = quick_gate.http.post("/v1/chat", data=fields, files={"image": PNG})
    assert _said(response) == 'smoothing holds "sigma" twice in one object.'


def test_a_byte_order_mark_changes_nothing(quick_gate: Gate, vllm: FakeVllm) -> None:
    content = b"\xef\xbb\xbf" + json.dumps(HELLO).encode()
    assert quick_gate.http.post("/v1/chat/completions", content=content, headers=JSON).status_code == 200
