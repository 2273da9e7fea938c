"""A vLLM elsewhere that cannot be reached, is slow or answers nonsense, as a client of the gate sees it."""

import json
import time
from typing import Any

import httpx
import pytest

from smoothgate.engine import RemoteEngine
from tests import fake_vllm
from tests.fake_vllm import FakeVllm
from tests.quick_gate import OpenGate
from tests.whole_service import Gate, data_uri

READ_SECONDS = 1.0


@pytest.fixture
def remote(open_gate: OpenGate, vllm: FakeVllm) -> Gate:
    """A gate that soon notices what happens to its vLLM."""
    return open_gate(engine=RemoteEngine(vllm.url, read_timeout=READ_SECONDS, health_interval=0.1))


def _error(response: httpx.Response) -> str:
    assert set(response.json()) == {"error"}
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    code: str = response.json()["error"]["code"]
    return code


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("slow", 504, "engine_timeout"),
        ("not json", 502, "engine_failed"),
        ("no message", 502, "engine_failed"),
        ("a list", 502, "engine_failed"),
        ("failure", 502, "engine_failed"),
        ("full", 429, "overloaded"),
        ("hangs up", 502, "engine_failed"),
    ],
)
def test_a_fault_is_a_clear_error(remote: Gate, vllm: FakeVllm, fault: str, status: int, code: str) -> None:
    vllm.fault, vllm.slow_seconds = fault, 3 * READ_SECONDS
    response = remote.ask("Hello")
    assert (response.status_code, _error(response)) == (status, code)
    assert "html" not in response.text
    if status == 429:
        assert int(response.headers["retry-after"]) >= 1


@pytest.mark.parametrize("fault", ["cut off", "nonsense in a stream", "no chunk"])
@pytest.mark.parametrize("path", ["/v1/chat", "/v1/chat/completions"])
def test_a_stream_that_fails_ends_in_an_error_frame(
    remote: Gate, vllm: FakeVllm, fault: str, path: str
) -> None:
    vllm.fault = fault
    body: dict[str, Any] = {"stream": True}
    body |= (
        {"message": "Hello"} if path == "/v1/chat" else {"messages": [{"role": "user", "content": "Hello"}]}
    )
    response = remote.http.post(path, json=body)
    assert response.status_code == 200
    frames = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert json.loads(frames[-1])["error"]["code"] == "engine_failed"
    assert "[DONE]" not in response.text


def test_without_its_engine_it_is_not_ready_says_so_and_still_certifies(remote: Gate, vllm: FakeVllm) -> None:
    vllm.fault = "unwell"
    end = time.monotonic() + 10
    while remote.http.get("/health/ready").status_code == 200:
        assert time.monotonic() < end
        time.sleep(0.05)
    refused = remote.ask("Hello")
    assert (refused.status_code, _error(refused)) == (503, "not_ready")
    assert remote.http.post("/v1/certify", json={"images": [data_uri("seven.png")]}).status_code == 200
    vllm.fault = ""
    remote.wait_ready(30)
    assert remote.ask("Hello").status_code == 200


def test_an_engine_that_is_not_there_at_all(open_gate: OpenGate) -> None:
    """Its address is closed while the service still believes that it is there."""
    with fake_vllm.running() as gone:
        gate = open_gate(engine=RemoteEngine(gone.url, health_interval=600))
    response = gate.ask("Hello")
    assert (response.status_code, _error(response)) == (502, "engine_failed")
