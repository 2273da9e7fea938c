"""The client against answers of a service or a proxy; tests/http/test_client.py asks a real service."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from smoothgate import Client
from smoothgate.client import ServiceError
from smoothgate.schemas import SmoothingOptions
from tests.certify.certificates import certificate

CERTIFICATE = certificate().model_dump(mode="json") | {"jws": "a.b.c"}
CHAT = {
    "id": "1",
    "model": "demo",
    "answer": "The digit is 7.",
    "certificates": [CERTIFICATE],
    "usage": {},
    "timings": {"decode": 0, "select": 0, "certify": 0, "engine": 0, "total": 0},
}


def _client(answer: httpx.Response | Callable[[httpx.Request], httpx.Response], **options: Any) -> Client:
    handler = answer if callable(answer) else lambda request: answer
    return Client("http://gate", transport=httpx.MockTransport(handler), **options)


def test_a_question_without_pictures_is_sent_as_json_and_leaves_out_what_is_not_set() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        assert (request.method, request.url.path) == ("POST", "/v1/chat")
        assert request.headers["Authorization"] == "Bearer sg-key"
        assert json.loads(request.content) == {"message": "Hello", "temperature": 0.0}
        return httpx.Response(200, json=CHAT)

    with _client(handler, api_key="sg-key") as client:
        assert client.chat("Hello", temperature=0).answer == "The digit is 7."


def test_pictures_are_sent_as_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "second.png").write_bytes(b"second picture")

    def handler(request: httpx.Request) -> httpx.Response:
        body = request.read()
        assert body.count(b'name="image"') == 2
        assert body.index(b"first picture") < body.index(b"second picture")
        assert b'{"sigma": 0.25}' in body
        return httpx.Response(200, json={"model": "demo", "certificates": [CERTIFICATE, CERTIFICATE]})

    pictures: list[Path | bytes] = [b"first picture", tmp_path / "second.png"]
    answer = _client(handler).certify(pictures, smoothing=SmoothingOptions(sigma=0.25))
    assert [each.image.width for each in answer.certificates] == [640, 640]


def test_a_refusal_keeps_what_the_service_said() -> None:
    error = {"message": "Too many.", "type": "rate_limit_error", "param": None, "code": "rate_limited"}
    response = httpx.Response(429, json={"error": error}, headers={"Retry-After": "7"})
    with pytest.raises(ServiceError, match=r"Too many\.") as caught:
        _client(response).chat("Hello")
    assert (caught.value.status_code, caught.value.code, caught.value.retry_after) == (429, "rate_limited", 7)


def test_a_refusal_by_policy_has_the_certificates() -> None:
    error = {
        "message": "Not certified.",
        "type": "invalid_request_error",
        "param": None,
        "code": "policy_not_met",
    }
    response = httpx.Response(422, json={"error": error, "certificates": [CERTIFICATE]})
    with pytest.raises(ServiceError) as caught:
        _client(response).chat("Hello")
    assert [each.jws for each in caught.value.certificates] == ["a.b.c"]


@pytest.mark.parametrize("response", [httpx.Response(502, text="<html>"), httpx.Response(200, text="<html>")])
def test_an_answer_that_is_not_the_services_is_an_error(response: httpx.Response) -> None:
    for ask in (lambda c: c.chat("Hello"), Client.models, Client.health, Client.key_set):
        with pytest.raises(ServiceError) as caught:
            ask(_client(response))
        assert caught.value.status_code == response.status_code


def test_no_connection_is_an_error() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with pytest.raises(ServiceError, match="GET /v1/models got no answer: refused"):
        _client(handler).models()


def test_a_service_that_is_not_ready_says_why() -> None:
    problems = {"engine": "starting"}
    response = httpx.Response(503, json={"status": "not ready", "problems": problems})
    health = _client(response).health()
    assert (health.status, health.problems) == ("not ready", problems)


def test_a_value_that_no_service_takes_is_refused_before_it_is_sent() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise AssertionError("sent")

    with pytest.raises(ValidationError):
        _client(handler).chat("Hello", temperature=9)
