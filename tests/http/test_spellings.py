"""What clients and monitors ask for in one spelling or another: all are taken alike, or refused clearly."""

import hashlib
from typing import Any

import pytest

from tests.fake_vllm import FakeVllm
from tests.whole_service import SAMPLES, Gate, data_uri

SEVEN = data_uri("seven.png")
SHA256 = hashlib.sha256((SAMPLES / "seven.png").read_bytes()).hexdigest()
MODEL = "smoothgate-demo"
PROBES = ["/health/ready", "/health", "/healthz", "/ping"]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": SEVEN}},
        {"type": "image_url", "image_url": SEVEN},
        {"type": "image_url", "image_url": {"url": SEVEN, "detail": "low"}},
        {"type": "image_url", "image_url": SEVEN, "detail": "high"},
        {"type": "input_image", "image_url": SEVEN, "detail": "auto"},
        {"type": "input_image", "image_url": {"url": SEVEN}},
    ],
)
@pytest.mark.parametrize("kind", ["text", "input_text"])
def test_a_picture_is_taken_in_each_form(
    quick_gate: Gate, vllm: FakeVllm, part: dict[str, Any], kind: str
) -> None:
    messages = [{"role": "user", "content": [part, {"type": kind, "text": "What digit is shown?"}]}]
    response = quick_gate.http.post("/v1/chat/completions", json={"messages": messages})
    assert response.status_code == 200, response.text
    assert [each["image"]["sha256"] for each in response.json()["certificates"]] == [SHA256]
    assert SEVEN[-40:] not in str(vllm.bodies)


@pytest.mark.parametrize("part", ["Hello", None, [], {"text": "Hello"}])
def test_a_part_without_a_type_is_refused(quick_gate: Gate, vllm: FakeVllm, part: Any) -> None:
    messages = [{"role": "user", "content": [part]}]
    response = quick_gate.http.post("/v1/chat/completions", json={"messages": messages})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "messages.0.content.0")
    assert vllm.bodies == []


def test_a_model_is_found_by_its_name(quick_gate: Gate) -> None:
    """The SDKs' `models.retrieve`."""
    (card,) = quick_gate.http.get("/v1/models").json()["data"]
    assert quick_gate.http.get(f"/v1/models/{MODEL}").json().items() > card.items()
    for name in ("gpt-4o", "organisation/model", "%2e%2e/models"):
        response = quick_gate.http.get(f"/v1/models/{name}")
        assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/v1/models", f"/v1/models/{MODEL}", "/health/live", "/metrics", *PROBES]
)
def test_head_is_answered_as_get_is(quick_gate: Gate, path: str) -> None:
    head, get = quick_gate.http.head(path), quick_gate.http.get(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["Content-Type"] == get.headers["Content-Type"]


@pytest.mark.parametrize("path", [*PROBES, "/health/live", "/v1/models", "/.well-known/jwks.json", "/docs"])
def test_a_slash_behind_a_path_changes_nothing(quick_gate: Gate, path: str) -> None:
    with_slash = quick_gate.http.get(f"{path}/")
    assert (with_slash.status_code, with_slash.content) == (200, quick_gate.http.get(path).content)
    assert not with_slash.history


def test_a_slash_behind_the_path_of_a_question_changes_nothing(quick_gate: Gate) -> None:
    """A redirect would name the address behind a proxy, and some clients drop the body or the key."""
    body = {"messages": [{"role": "user", "content": "Hello"}]}
    assert quick_gate.http.post("/v1/chat/completions/", json=body).status_code == 200
    assert quick_gate.http.post("/v1/chat/", json={"message": "Hello"}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/chat", "POST"),
        ("GET", "/v1/chat/completions", "POST"),
        ("HEAD", "/v1/chat/completions", "POST"),
        ("OPTIONS", "/v1/chat/completions", "POST"),
        ("PUT", "/v1/certify", "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("DELETE", f"/v1/models/{MODEL}", "GET, HEAD"),
        ("POST", "/health", "GET, HEAD"),
        ("OPTIONS", "/health/live", "GET, HEAD"),
    ],
)
def test_another_method_is_told_which_are_taken(quick_gate: Gate, method: str, path: str, allow: str) -> None:
    response = quick_gate.http.request(method, path)
    assert (response.status_code, response.headers["Allow"]) == (405, allow)
    if method != "HEAD":
        error = response.json()["error"]
        assert error["code"] == "method_not_allowed"
        assert error["message"] == f"{method} is not taken here. This path takes {allow}."


@pytest.mark.parametrize(
    "path",
    ["/v1", "/v1/nothing", "/v1/responses/resp_1", "/v1/completions", "/v1/messages/count_tokens",
     "/models", "/api/tags", "/version", "/favicon.ico", "/v1//models"],
)  # fmt: skip
def test_what_is_not_there_is_named(quick_gate: Gate, path: str) -> None:
    response = quick_gate.http.get(path)
    assert response.status_code == 404
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("not_found", None)
    assert error["message"] == f"There is nothing at {path}. GET /docs lists what there is."
