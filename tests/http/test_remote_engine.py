"""A vLLM elsewhere that cannot be reached, is slow or answers nonsense, as a client of the gate sees it.

The engine is a fake: it produces faults that the real one can't be made to produce.
"""

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
import uvicorn

from smoothgate.http.app import create_app
from smoothgate.settings import Settings
from tests.whole_service import FEW, Gate, data_uri

READ_SECONDS = 1.0


class Engine(ThreadingHTTPServer):
    """Healthy, and at fault as `fault` says."""

    daemon_threads = True

    def __init__(self) -> None:
        self.fault = ""
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    server: Engine

    def do_GET(self) -> None:
        self._send(503 if self.server.fault == "unwell" else 200, b"")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        match self.server.fault:
            case "slow":
                time.sleep(3 * READ_SECONDS)
                self._send(200, b"{}")
            case "not json":
                self._send(200, b"<html>It works!</html>")
            case "another object":
                self._send(200, json.dumps({"choices": []}).encode())
            case "a list":
                self._send(200, b"[]")
            case "failure":
                self._send(500, b"Internal Server Error")
            case "full":
                self._send(429, b"{}")
            case "hangs up":
                self.close_connection = True
            case "cut off":
                self._send(200, b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n', "text/event-stream")
            case "nonsense in a stream":
                self._send(200, b"data: what\n\n", "text/event-stream")

    def _send(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    server = Engine()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def remote(engine: Engine) -> Iterator[Gate]:
    settings = Settings(
        _env_file=None,
        engine_url=f"http://127.0.0.1:{engine.server_port}",
        engine_read_timeout_seconds=READ_SECONDS,
        canary_seconds=0,
        threads=1,
        batch_size=32,
    )
    app = create_app(settings)
    app.state.runtime.engine._health_interval = 0.2
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with httpx.Client(base_url=url, timeout=60) as http:
        while not server.started:
            assert thread.is_alive(), "the service did not start"
            time.sleep(0.1)
        yield Gate(url, app, http)
    server.should_exit = True
    thread.join(60)
    assert not thread.is_alive()


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
        ("another object", 502, "engine_failed"),
        ("a list", 502, "engine_failed"),
        ("failure", 502, "engine_failed"),
        ("full", 429, "overloaded"),
        ("hangs up", 502, "engine_failed"),
    ],
)
def test_a_fault_is_a_clear_error(
    remote: Gate, engine: Engine, fault: str, status: int, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.wait_ready(30)
    monkeypatch.setattr(engine, "fault", fault)
    started = time.monotonic()
    response = remote.ask("Hello")
    assert (response.status_code, _error(response)) == (status, code)
    assert time.monotonic() - started < READ_SECONDS + 5
    assert "html" not in response.text
    if status == 429:
        assert int(response.headers["retry-after"]) >= 1


@pytest.mark.parametrize("fault", ["cut off", "nonsense in a stream"])
@pytest.mark.parametrize("path", ["/v1/chat", "/v1/chat/completions"])
def test_a_stream_that_fails_ends_in_an_error_frame(
    remote: Gate, engine: Engine, fault: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.wait_ready(30)
    monkeypatch.setattr(engine, "fault", fault)
    body: dict[str, Any] = {"stream": True}
    body |= (
        {"message": "Hello"} if path == "/v1/chat" else {"messages": [{"role": "user", "content": "Hello"}]}
    )
    response = remote.http.post(path, json=body)
    assert response.status_code == 200
    frames = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert json.loads(frames[-1])["error"]["code"] == "engine_failed"
    assert "[DONE]" not in response.text


def test_without_its_engine_it_is_not_ready_says_so_and_still_certifies(
    remote: Gate, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.wait_ready(30)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "fault", "unwell")
        end = time.monotonic() + 10
        while remote.http.get("/health/ready").status_code == 200:
            assert time.monotonic() < end
            time.sleep(0.1)
        refused = remote.ask("Hello")
        assert (refused.status_code, _error(refused)) == (503, "not_ready")
        body = {"images": [data_uri("seven.png")], "smoothing": FEW}
        assert remote.http.post("/v1/certify", json=body).status_code == 200
    remote.wait_ready(30)


def test_an_engine_that_is_not_there_at_all(monkeypatch: pytest.MonkeyPatch, remote: Gate) -> None:
    """The port is closed while the service still believes it is there."""
    remote.wait_ready(30)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setattr(remote.runtime.engine.client._http, "base_url", f"http://127.0.0.1:{port}")
    response = remote.ask("Hello")
    assert response.status_code in (502, 503)
    assert _error(response) in ("engine_failed", "not_ready")
