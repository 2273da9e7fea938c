"""A vLLM elsewhere that cannot be reached, is slow or answers nonsense, as a client of the gate sees it."""

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from smoothgate.bundled import DEMO
from smoothgate.engine import EngineState, MediaCheck, RemoteEngine
from tests import fake_vllm
from tests.captured_log import captured
from tests.fake_vllm import FakeVllm
from tests.quick_gate import OpenGate
from tests.sse_data import sse_data
from tests.whole_service import Gate, data_uri

READ_SECONDS = 1.0
CHECK = MediaCheck(DEMO.served_name)


@pytest.fixture
def remote(open_gate: OpenGate, vllm: FakeVllm) -> Gate:
    """A gate that soon notices what happens to its vLLM."""
    return open_gate(engine=RemoteEngine(vllm.url, CHECK, read_timeout=READ_SECONDS, health_interval=0.1))


HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}]}


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
    frames = sse_data(response.text.splitlines())
    assert json.loads(frames[-1])["error"]["code"] == "engine_failed"
    assert "[DONE]" not in response.text


def _until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_without_its_engine_it_refuses_chats_and_goes_on_certifying(remote: Gate, vllm: FakeVllm) -> None:
    """Other gates have the same vLLM: if readiness followed it, there would be no gate left to certify."""
    vllm.fault = "unwell"
    _until(lambda: remote.service.engine.status.state is EngineState.BACKOFF)
    for path, body in (("/v1/chat", {"message": "Hello"}), ("/v1/chat/completions", HELLO)):
        refused = remote.http.post(path, json=body)
        assert (refused.status_code, _error(refused)) == (503, "not_ready")
        assert int(refused.headers["retry-after"]) >= 1
    assert remote.http.get("/health/ready").status_code == 200
    assert remote.http.post("/v1/certify", json={"images": [data_uri("seven.png")]}).status_code == 200
    vllm.fault = ""
    _until(lambda: remote.ask("Hello").status_code == 200)


def test_a_gate_whose_engine_was_never_there_is_not_ready(open_gate: OpenGate, vllm: FakeVllm) -> None:
    vllm.fault = "unwell"
    gate = open_gate(engine=RemoteEngine(vllm.url, CHECK, health_interval=0.1), ready=False)
    _until(lambda: gate.http.get("/health/ready").json().get("problems") == {"engine": "starting"})
    vllm.fault = ""
    gate.wait_ready(10)


@pytest.mark.parametrize("kind", ["image", "video"])
def test_an_engine_that_takes_pixels_gets_no_request(open_gate: OpenGate, vllm: FakeVllm, kind: str) -> None:
    vllm.takes = {kind}
    gate = open_gate(engine=RemoteEngine(vllm.url, CHECK, health_interval=0.1), ready=False)
    problem = {"engine": f"takes {kind}s: start it with --limit-mm-per-prompt"}
    _until(lambda: gate.http.get("/health/ready").json().get("problems") == problem)
    vllm.bodies.clear()
    refused = gate.ask("Hello")
    assert (refused.status_code, _error(refused)) == (503, "not_ready")
    assert all(body["messages"][0]["content"] != "Hello" for body in vllm.bodies)
    assert gate.http.post("/v1/certify", json={"images": [data_uri("seven.png")]}).status_code == 200
    vllm.takes = set()
    gate.wait_ready(10)
    assert gate.ask("Hello").status_code == 200


def test_each_canary_looks_whether_the_engine_takes_pixels(open_gate: OpenGate, vllm: FakeVllm) -> None:
    gate = open_gate(canary_seconds=0.2)
    assert vllm.asked[:2] == ["image", "video"]
    vllm.takes = {"image"}
    _until(lambda: "engine" in gate.http.get("/health/ready").json().get("problems", {}))
    assert gate.ask("Hello").status_code == 503
    vllm.takes = set()
    _until(lambda: gate.http.get("/health/ready").status_code == 200, 20)


def test_an_engine_with_another_model_gets_no_request(open_gate: OpenGate, vllm: FakeVllm) -> None:
    vllm.model = "other"
    gate = open_gate(ready=False)
    problem = {"engine": "serves other instead of smoothgate-demo"}
    _until(lambda: gate.http.get("/health/ready").json().get("problems") == problem)


@pytest.mark.parametrize("version", [None, "0.31.7", "0.32.1"])
def test_another_version_is_a_warning(open_gate: OpenGate, vllm: FakeVllm, version: str | None) -> None:
    vllm.version = version
    with captured() as lines:
        open_gate()
    warned = [line for line in lines if line["event"] == "the tests ran with another version of vLLM"]
    assert len(warned) == (0 if version == "0.32.1" else 1)


def test_an_engine_whose_refusals_say_nothing_is_not_trusted(open_gate: OpenGate, vllm: FakeVllm) -> None:
    """A vLLM that fails on everything refuses pictures too, and that proves nothing."""
    vllm.takes, vllm.fault = {"image", "video"}, "failure"
    gate = open_gate(engine=RemoteEngine(vllm.url, CHECK, health_interval=0.1), ready=False)
    _until(lambda: vllm.asked.count("image") > 2)
    assert gate.http.get("/health/ready").json()["problems"] == {"engine": "starting"}


def test_an_engine_that_is_not_there_at_all(open_gate: OpenGate) -> None:
    """Its address is closed while the service still believes that it is there."""
    with fake_vllm.running() as gone:
        gate = open_gate(engine=RemoteEngine(gone.url, CHECK, health_interval=600))
    response = gate.ask("Hello")
    assert (response.status_code, _error(response)) == (502, "engine_failed")
