"""`/v1/embeddings`: smoothed features with certificates."""

import base64
from typing import Any

import numpy as np
import pytest

from smoothgate.certify.signing import verify
from smoothgate.client import Client
from tests.whole_service import SAMPLES, Gate, image_part


def _ask(gate: Gate, *names: str, **fields: Any) -> Any:
    messages = [{"role": "user", "content": [image_part(name)]} for name in names]
    return gate.http.post("/v1/embeddings", json={"messages": messages} | fields)


def test_each_picture_gives_a_unit_vector_and_its_certificate(quick_gate: Gate) -> None:
    answer = _ask(quick_gate, "seven.png", "two.png", model="smoothgate-demo", smoothing={"n_certify": 48})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    vectors = np.array([each["embedding"] for each in body["data"]], dtype=np.float32)
    assert [each["index"] for each in body["data"]] == [0, 1]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
    assert vectors[0] @ vectors[1] < 0.9
    keys = quick_gate.http.get("/.well-known/jwks.json").json()
    for certificate in body["certificates"]:
        assert verify(certificate["jws"], keys).model_dump()["noise"]["n_certify"] == 48
    assert body["usage"]["total_tokens"] > 0


def test_base64_holds_the_same_numbers(quick_gate: Gate) -> None:
    """Of the same picture the noise is the same, and so are the features."""
    (plain,) = _ask(quick_gate, "seven.png").json()["data"]
    (encoded,) = _ask(quick_gate, "seven.png", encoding_format="base64").json()["data"]
    values = np.frombuffer(base64.b64decode(encoded["embedding"]), dtype="<f4")
    np.testing.assert_allclose(values, np.array(plain["embedding"], dtype=np.float32), atol=1e-5)


def test_the_client_of_python(quick_gate: Gate) -> None:
    with Client(quick_gate.url) as client:
        answer = client.embed([SAMPLES / "seven.png", (SAMPLES / "two.png").read_bytes()])
    assert [round(float(np.linalg.norm(each.vector)), 4) for each in answer] == [1.0, 1.0]
    assert answer[0].certificate.image.sha256 != answer[1].certificate.image.sha256


TEXT_PART = {"type": "text", "text": "Represent the picture."}
BROKEN = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}}


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"input": "text"}, 422, "input"),
        ({"dimensions": 64}, 422, "dimensions"),
        ({"truncate_prompt_tokens": 5}, 422, "truncate_prompt_tokens"),
        ({"encoding_format": "hex"}, 400, "encoding_format"),
        ({"messages": None}, 400, "messages"),
        ({"messages": [{"role": "user", "content": "text"}]}, 422, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [TEXT_PART]}]}, 422, "messages.0.content.0"),
        ({"messages": [{"role": "user", "content": []}]}, 422, "messages"),
        ({"messages": [{"role": "user", "content": [BROKEN]}]}, 422, "messages.0.content.0"),
        ({"model": "clip"}, 404, "model"),
        ({"smoothing": {"mode": "off"}}, 400, "smoothing.mode"),
    ],
)
def test_what_is_refused(quick_gate: Gate, fields: dict[str, Any], status: int, param: str) -> None:
    answer = _ask(quick_gate, "seven.png", **fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
