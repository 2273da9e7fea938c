"""Forms: whole or refused, pictures as files and as text."""

import hashlib
import json
from typing import Any

import pytest

from tests.quick_gate import OpenGate
from tests.whole_service import SAMPLES, Gate, data_uri

SEVEN = (SAMPLES / "seven.png").read_bytes()
THREE = (SAMPLES / "three.png").read_bytes()
TERMS = json.dumps({"n_select": 16, "n_certify": 64}).encode()
FILE = b'; filename="a.png"\r\nContent-Type: image/png'


def _field(name: bytes, data: bytes, more: bytes = b"") -> bytes:
    return b'--XX\r\nContent-Disposition: form-data; name="' + name + b'"' + more + b"\r\n\r\n" + data


def _post(gate: Gate, path: str, content: bytes, kind: str = "multipart/form-data; boundary=XX") -> Any:
    return gate.http.post(path, content=content, headers={"Content-Type": kind})


def _hashes(response: Any) -> list[str]:
    assert response.status_code == 200, response.text
    return [one["image"]["sha256"] for one in response.json()["certificates"]]


CHAT = [_field(b"smoothing", TERMS), _field(b"message", b"What is shown?"), _field(b"image", THREE, FILE)]
CERTIFY = [_field(b"smoothing", TERMS), _field(b"image", THREE, FILE)]


@pytest.mark.parametrize(("path", "parts"), [("/v1/chat", CHAT), ("/v1/certify", CERTIFY)])
@pytest.mark.parametrize(
    "end", [b"", b"\r\n", b"\r\n--XX", b"\r\n--XX-", b"\r\n--XX\r\n", b"\r\n--XX\r\nContent-D"]
)
def test_a_form_without_its_closing_delimiter_is_refused(
    quick_gate: Gate, path: str, parts: list[bytes], end: bytes
) -> None:
    """Case multipart_unclosed. Starlette leaves out what is cut off:
    https://github.com/Kludex/python-multipart/issues/60
    """
    response = _post(quick_gate, path, b"\r\n".join([*parts, _field(b"image", SEVEN, FILE)]) + end)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_form"


def test_a_form_that_is_closed_is_taken_whole(quick_gate: Gate) -> None:
    both = [hashlib.sha256(THREE).hexdigest(), hashlib.sha256(SEVEN).hexdigest()]
    body = b"\r\n".join([*CHAT, _field(b"image", SEVEN, FILE)])
    for end in (b"\r\n--XX--", b"\r\n--XX--\r\n"):
        assert _hashes(_post(quick_gate, "/v1/chat", body + end)) == both
    assert _hashes(_post(quick_gate, "/v1/chat", body + end, "Multipart/Form-Data; boundary=XX")) == both


@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary=YY"])
def test_a_form_with_another_boundary_is_refused(quick_gate: Gate, kind: str) -> None:
    response = _post(quick_gate, "/v1/chat", b"\r\n".join(CHAT) + b"\r\n--XX--", kind)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_form")


@pytest.mark.parametrize("name", ["image", "images", "image[]", "images[]"])
def test_pictures_of_a_form_may_be_files_and_text_and_keep_their_order(quick_gate: Gate, name: str) -> None:
    text = _field(name.encode(), data_uri("seven.png").encode())
    file = _field(name.encode(), THREE, FILE)
    body = b"\r\n".join([*CERTIFY[:1], text, file, text]) + b"\r\n--XX--"
    seven, three = hashlib.sha256(SEVEN).hexdigest(), hashlib.sha256(THREE).hexdigest()
    assert _hashes(_post(quick_gate, "/v1/certify", body)) == [seven, three, seven]


def test_a_field_that_comes_twice_is_refused(quick_gate: Gate) -> None:
    body = b"\r\n".join([*CHAT, _field(b"message", b"Another question?")]) + b"\r\n--XX--"
    response = _post(quick_gate, "/v1/chat", body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "message")


def test_a_field_may_be_as_long_as_a_picture(open_gate: OpenGate) -> None:
    history = [{"role": "user", "content": [{"type": "image_url", "image_url": data_uri("seven.png")}]}]
    text = json.dumps(history).encode() + b" " * 2**20
    body = b"\r\n".join([*CHAT[:2], _field(b"history", text)]) + b"\r\n--XX--"
    assert _hashes(_post(open_gate(), "/v1/chat", body)) == [hashlib.sha256(SEVEN).hexdigest()]
