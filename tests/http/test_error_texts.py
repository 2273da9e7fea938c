"""What a client reads about a mistake: the field as it wrote it, what it may be, and what was given."""

from typing import Any

import pytest

from tests.whole_service import SAMPLES, Gate, data_uri

SEVEN = data_uri("seven.png")
PNG = (SAMPLES / "seven.png").read_bytes()
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}]}


def _said(response: Any, status: int = 400) -> str:
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    message: str = response.json()["error"]["message"]
    return message


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "message is missing."),
        ([], "The body must be an object."),
        ({"message": 5}, "message must be text, not 5."),
        ({"message": None}, "message must be text, not null."),
        (
            {"message": " "},
            'message must be text of 1 or more characters that are not white space, not " ".',
        ),
        ({"images": "seven.png"}, 'images must be a list, not "seven.png".'),
        ({"images": [{"url": "x"}]}, "images.0 must be text."),
        ({"images": [SEVEN, 1]}, "images.1 must be text, not 1."),
        (
            {"image": SEVEN},
            "image is not a field here. The fields are message, images, smoothing, max_tokens, temperature, "
            "stream, history.",
        ),
        ({"history": "x"}, 'history must be a list, not "x".'),
        ({"history": ["x"]}, 'history.0 must be an object, not "x".'),
        ({"max_tokens": 0}, "max_tokens must be at least 1, not 0."),
        ({"max_tokens": 1.5}, "max_tokens must be a whole number, not 1.5."),
        ({"max_tokens": "x" * 50}, f'max_tokens must be a whole number, not "{"x" * 39}….'),
        ({"temperature": 9}, "temperature must be at most 2, not 9."),
        ({"stream": "maybe"}, 'stream must be true or false, not "maybe".'),
        ({"smoothing": "off"}, 'smoothing must be an object, not "off".'),
        ({"smoothing": {"mode": "on"}}, "smoothing.mode must be 'certified' or 'off', not \"on\"."),
        ({"smoothing": {"sigma": "loud"}}, 'smoothing.sigma must be a number, not "loud".'),
        ({"smoothing": {"sigma": -0.5}}, "smoothing.sigma must be greater than 0, not -0.5."),
        ({"smoothing": {"alpha": 1}}, "smoothing.alpha must be less than 1, not 1."),
        ({"smoothing": {"eps": []}}, "smoothing.eps must be a list of 1 or more items."),
        ({"smoothing": {"eps": [0.1] * 33}}, "smoothing.eps must be a list of 32 or fewer items."),
        ({"smoothing": {"eps": 0.25}}, "smoothing.eps must be a list, not 0.25."),
        ({"smoothing": {"eps": [0.25, "é"]}}, 'smoothing.eps.1 must be a number, not "é".'),
        ({"smoothing": {"target": {}}}, "smoothing.target.eps is missing."),
        (
            {"smoothing": {"target": {"eps": 1, "radius": 1}}},
            "smoothing.target.radius is not a field here. The fields are cosine, eps.",
        ),
    ],
)
def test_chat(quick_gate: Gate, body: Any, text: str) -> None:
    if body and "message" not in body:
        body = {"message": "Hello"} | body
    assert _said(quick_gate.http.post("/v1/chat", json=body)) == text


def test_certify(quick_gate: Gate) -> None:
    body = {"images": [SEVEN], "message": "x"}
    text = "message is not a field here. The fields are images, smoothing."
    assert _said(quick_gate.http.post("/v1/certify", json=body)) == text


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"stream": 2}, "stream must be true or false, not 2."),
        ({"smoothing": {"n_select": "x"}}, 'smoothing.n_select must be a whole number, not "x".'),
        ({"smoothing": 5}, "smoothing must be an object, not 5."),
    ],
)
def test_completions(quick_gate: Gate, fields: dict[str, Any], text: str) -> None:
    assert _said(quick_gate.http.post("/v1/chat/completions", json=HELLO | fields)) == text


def test_a_form(quick_gate: Gate) -> None:
    fields = {"message": "x", "max_tokens": "many"}
    response = quick_gate.http.post("/v1/chat", data=fields, files={"image": PNG})
    assert _said(response) == 'max_tokens must be a whole number, not "many".'


@pytest.mark.parametrize("kind", ["image", "file", "audio"])
def test_a_part_that_is_not_served_says_how_pictures_are_sent(quick_gate: Gate, kind: str) -> None:
    content = [{"type": kind, kind: SEVEN}]
    body = {"messages": [{"role": "user", "content": content}]}
    text = _said(quick_gate.http.post("/v1/chat/completions", json=body), 422)
    assert text.startswith(f"Content of type {kind} is not served. A picture is sent as ")
    assert '{"type": "image_url", "image_url": {"url": ' in text
