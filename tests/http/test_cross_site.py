"""Pages of other sites, and bodies that are not what they should be."""

import gzip
import json
from typing import Any

import pytest

from smoothgate.gate import accounts
from tests.fake_vllm import FakeVllm
from tests.quick_gate import OpenGate
from tests.whole_service import Gate

PATH = "/v1/chat/completions"
ASK = json.dumps({"messages": [{"role": "user", "content": "Hello"}]}).encode()
JSON = {"Content-Type": "application/json"}
PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,x-stainless-os",
}
PAGE = "http://localhost:5173"


def _code(response: Any) -> str:
    code: str = response.json()["error"]["code"]
    return code


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None]
)
@pytest.mark.parametrize("path", [PATH, "/v1/chat", "/v1/certify"])
def test_only_json_is_read_as_json(quick_gate: Gate, vllm: FakeVllm, kind: str | None, path: str) -> None:
    """Case cross_site_simple_post. A page may send the rest without asking first:
    https://github.com/vllm-project/vllm/pull/11171
    """
    response = quick_gate.http.post(path, content=ASK, headers={} if kind is None else {"Content-Type": kind})
    if kind == "multipart/form-data" and path != PATH:
        assert (response.status_code, _code(response)) == (400, "invalid_form")
    else:
        assert (response.status_code, _code(response)) == (415, "unsupported_content_type")
    assert vllm.bodies == []


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON; charset=utf-8", "application/vnd.x+json"]
)
def test_json_is_read_under_each_of_its_names(quick_gate: Gate, kind: str) -> None:
    assert quick_gate.http.post(PATH, content=ASK, headers={"Content-Type": kind}).status_code == 200


@pytest.mark.parametrize("path", [PATH, "/v1/chat", "/v1/certify"])
@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=XX"])
def test_a_compressed_body_is_refused_as_such(quick_gate: Gate, path: str, kind: str) -> None:
    """Case compressed_body."""
    headers = {"Content-Type": kind, "Content-Encoding": "gzip"}
    response = quick_gate.http.post(path, content=gzip.compress(ASK), headers=headers)
    assert response.status_code == 415
    if "json" in kind or path != PATH:
        assert _code(response) == "unsupported_encoding"
    assert quick_gate.http.post(PATH, content=ASK, headers=JSON | {"Content-Encoding": "identity"}).is_success


@pytest.mark.parametrize("origin", ["https://evil.example", "null", PAGE, "http://127.0.0.1"])
def test_a_page_of_another_site_is_refused_where_there_are_no_keys(quick_gate: Gate, origin: str) -> None:
    """Case cross_site_simple_post."""
    response = quick_gate.http.post(PATH, content=ASK, headers=JSON | {"Origin": origin})
    assert (response.status_code, _code(response)) == (403, "foreign_origin")
    form = quick_gate.http.post("/v1/chat", files={"message": (None, "Hello")}, headers={"Origin": origin})
    assert (form.status_code, _code(form)) == (403, "foreign_origin")


def test_the_page_of_the_service_itself_is_answered(quick_gate: Gate) -> None:
    for origin in (quick_gate.url, quick_gate.url.replace("http:", "https:")):
        assert quick_gate.http.post(PATH, content=ASK, headers=JSON | {"Origin": origin}).is_success


@pytest.mark.parametrize("host", ["evil.example:8000", "evil.example", "127.0.0.1.evil.example", ""])
def test_a_foreign_name_is_refused_where_there_are_no_keys(quick_gate: Gate, host: str) -> None:
    """Case cross_site_simple_post."""
    for response in (
        quick_gate.http.post(PATH, content=ASK, headers=JSON | {"Host": host}),
        quick_gate.http.get("/v1/models", headers={"Host": host}),
    ):
        assert (response.status_code, _code(response)) == (403, "foreign_host")


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000", "[::1]", "gate.test"]
)
def test_names_of_this_service_are_answered(open_gate: OpenGate, host: str) -> None:
    gate = open_gate(hosts=("gate.test",))
    assert gate.http.get("/v1/models", headers={"Host": host}).is_success


def test_with_keys_neither_is_asked_for(open_gate: OpenGate, tmp_path: Any) -> None:
    """A page has no key unless it was given one."""
    account, key = accounts.new("someone")
    file = tmp_path / "accounts.json"
    accounts.save(file, [account])
    gate = open_gate(accounts=file)
    headers = JSON | {"Origin": PAGE, "Host": "gate.example", "Authorization": f"Bearer {key}"}
    assert gate.http.post(PATH, content=ASK, headers=headers).is_success


def test_a_preflight_is_refused_by_default(quick_gate: Gate) -> None:
    response = quick_gate.http.options(PATH, headers=PREFLIGHT | {"Origin": PAGE})
    assert response.status_code == 403
    assert "access-control-allow-origin" not in response.headers


def test_pages_that_the_operator_lists_may_ask(open_gate: OpenGate) -> None:
    """Case cors_preflight: https://github.com/ollama/ollama/issues/4001"""
    gate = open_gate(cors_origins=(PAGE,))
    preflight = gate.http.options(PATH, headers=PREFLIGHT | {"Origin": PAGE})
    assert preflight.is_success
    assert preflight.headers["access-control-allow-origin"] == PAGE
    assert "x-stainless-os" in preflight.headers["access-control-allow-headers"]
    answer = gate.http.post(PATH, content=ASK, headers=JSON | {"Origin": PAGE})
    assert answer.is_success
    refused = gate.http.post(PATH, content=b"{", headers=JSON | {"Origin": PAGE})
    assert refused.status_code == 400
    for response in (answer, refused):
        assert response.headers["access-control-allow-origin"] == PAGE
        exposed = response.headers["access-control-expose-headers"]
        assert {"X-Request-Id", "Smoothgate-Outcome", "Smoothgate-Radius"} <= set(exposed.split(", "))
    stranger = gate.http.post(PATH, content=ASK, headers=JSON | {"Origin": "https://evil.example"})
    assert stranger.status_code == 403


def test_a_preflight_needs_no_key(open_gate: OpenGate, tmp_path: Any) -> None:
    file = tmp_path / "accounts.json"
    account, _ = accounts.new("someone")
    accounts.save(file, [account])
    gate = open_gate(cors_origins=("*",), accounts=file)
    assert gate.http.options(PATH, headers=PREFLIGHT | {"Origin": PAGE}).is_success
    refused = gate.http.post(PATH, content=ASK, headers=JSON | {"Origin": PAGE})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "*")
