"""`smoothgate serve` as an operator runs it: accounts, a port for metrics, traces, and its end under load."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from smoothgate.gate import accounts
from tests import processes
from tests.whole_service import FEW, data_uri

pytestmark = pytest.mark.engine

SHUTDOWN_SECONDS = 60  # idle cores need five


class Collector:
    """Takes traces as an OpenTelemetry collector does, over HTTP."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []
        spans = self.spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told = ExportTraceServiceRequest()
                told.ParseFromString(self.rfile.read(int(self.headers["Content-Length"])))
                for resource in told.resource_spans:
                    names = [
                        a.value.string_value for a in resource.resource.attributes if a.key == "service.name"
                    ]
                    for scope in resource.scope_spans:
                        spans.extend((names[0], span) for span in scope.spans)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def of_trace(self, trace: str) -> dict[str, tuple[str, Span]]:
        return {span.name: (who, span) for who, span in self.spans if span.trace_id.hex() == trace}


@dataclass
class Served:
    process: subprocess.Popen[bytes]
    http: httpx.Client
    metrics: str
    collector: Collector
    key: str
    log: Path
    answers: list[Any] = field(default_factory=list)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    account, key = accounts.new("alice")
    accounts.save(folder / "accounts.json", [account])
    collector = Collector()
    port, metrics_port = _free_port(), _free_port()
    environment = os.environ | {
        "SMOOTHGATE_PORT": str(port),
        "SMOOTHGATE_METRICS_PORT": str(metrics_port),
        "SMOOTHGATE_ACCOUNTS": str(folder / "accounts.json"),
        "SMOOTHGATE_TRACING_URL": collector.url,
        "SMOOTHGATE_LOG_FORMAT": "json",
        "SMOOTHGATE_SHUTDOWN_TIMEOUT_SECONDS": str(SHUTDOWN_SECONDS),
        "SMOOTHGATE_ENGINE_MAX_MODEL_LEN": "1024",
    }
    log = folder / "log"
    command = [sys.executable, "-c", "from smoothgate.cli.main import app; app()", "serve"]
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    url = f"http://127.0.0.1:{port}"
    headers = {"Authorization": f"Bearer {key}"}
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=120) as http:
            end = time.monotonic() + 280
            while not _ready(url):
                assert process.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < end, log.read_text()[-3000:]
                time.sleep(0.5)
            yield Served(process, http, f"http://127.0.0.1:{metrics_port}/metrics", collector, key, log)
    finally:
        process.kill()
        process.wait()
        collector.server.shutdown()
        collector.server.server_close()


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/ready", timeout=60).is_success
    except httpx.TransportError:
        return False


def _chat(**more: Any) -> dict[str, Any]:
    body = {"message": "What digit is shown?", "images": [data_uri("seven.png")], "temperature": 0}
    return body | {"smoothing": FEW} | more


@pytest.mark.timeout(400)
def test_a_client_with_a_key_is_served_and_named_in_the_log(served: Served) -> None:
    answer = served.http.post("/v1/chat", json=_chat(), headers={"X-Request-Id": "first"})
    assert answer.json()["answer"] == "The digit is 7."
    assert httpx.post(f"{served.http.base_url}/v1/chat", json=_chat(), timeout=60).status_code == 401
    (line,) = [
        line for line in served.lines() if line.get("request_id") == "first" and line["event"] == "request"
    ]
    assert (line["client"], line["status"], line["path"]) == ("alice", 200, "/v1/chat")
    assert served.key not in served.log.read_text()


def test_metrics_have_their_port_and_are_nowhere_else(served: Served) -> None:
    assert "smoothgate_ready 1.0" in httpx.get(served.metrics, timeout=60).text
    assert served.http.get("/metrics").status_code == 404


def test_a_websocket_is_refused_like_the_rest(served: Served) -> None:
    """uvicorn's own refusal has no body and no request id."""
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    refused = served.http.get("/v1/chat", headers=upgrade)
    assert (refused.status_code, refused.json()["error"]["type"]) == (405, "invalid_request_error")
    assert refused.headers["x-request-id"]


def test_a_trace_goes_from_the_caller_through_the_stages_into_vllm(served: Served) -> None:
    trace, caller = "1" * 32, "2" * 16
    headers = {"traceparent": f"00-{trace}-{caller}-01"}
    stream = served.http.post("/v1/chat/completions", json=_completion(stream=True), headers=headers)
    assert stream.status_code == 200
    wanted = {"POST /v1/chat/completions", "decode", "select", "certify", "engine"}
    end = time.monotonic() + 30
    while not wanted < set(served.collector.of_trace(trace)):
        assert time.monotonic() < end, sorted(served.collector.of_trace(trace))
        time.sleep(0.2)
    found = served.collector.of_trace(trace)
    root = found["POST /v1/chat/completions"][1]
    assert root.parent_span_id.hex() == caller
    attributes = {each.key: each.value.string_value or each.value.int_value for each in root.attributes}
    assert attributes["http.route"] == "/v1/chat/completions"
    assert attributes["gen_ai.operation.name"] == "chat"
    assert attributes["gen_ai.usage.output_tokens"] > 0
    (line,) = (
        each for each in served.lines() if each.get("trace_id") == trace and each["event"] == "request"
    )
    assert line["address"] == "127.0.0.1"
    for stage in ("decode", "select", "certify", "engine"):
        assert found[stage][1].parent_span_id == root.span_id, stage
    engine = found["engine"][1]
    assert engine.end_time_unix_nano - engine.start_time_unix_nano > 10**6
    (below,) = [span for _, span in served.collector.spans if span.parent_span_id == engine.span_id]
    assert below.trace_id.hex() == trace
    assert below.name == "llm_request"


def _completion(**more: Any) -> dict[str, Any]:
    image = {"type": "image_url", "image_url": {"url": data_uri("three.png")}}
    content = [image, {"type": "text", "text": "What digit is shown?"}]
    return {"messages": [{"role": "user", "content": content}], "smoothing": FEW} | more


@pytest.mark.timeout(240)
def test_sigterm_under_load_loses_no_request(served: Served) -> None:
    """All that were taken finish or get an error, new ones get 503, and it ends in time, with all of its
    processes.
    """
    children = processes.descendants(served.process.pid)
    assert any("vllm" in command for command in children.values())
    long = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 200, "ignore_eos": True}

    def one(number: int) -> tuple[int, str]:
        if number % 4 == 0:
            with served.http.stream("POST", "/v1/chat/completions", json=long | {"stream": True}) as response:
                return response.status_code, list(filter(None, response.iter_lines()))[-1]
        if number % 4 == 1:
            response = served.http.post("/v1/chat/completions", json=long)
            return response.status_code, response.text
        # Each another picture on other terms: none comes from the cache.
        smoothing = {"n_select": 32, "n_certify": 64 + number}
        response = served.http.post("/v1/chat", json=_chat(smoothing=smoothing))
        return response.status_code, response.text

    with ThreadPoolExecutor(24) as pool:
        asked = [pool.submit(one, number) for number in range(24)]
        # On a busy machine it takes a while until all of them are in.
        end = time.monotonic() + 60
        while sum(each.done() for each in asked) + _in_flight(served) < len(asked):
            assert time.monotonic() < end
            time.sleep(0.1)
        started = time.monotonic()
        served.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        refused = served.http.get("/v1/models")
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "draining"
        assert refused.headers["retry-after"]
        probe = httpx.get(f"{served.http.base_url}/health/ready", timeout=60)
        assert (probe.status_code, probe.json()["problems"]["service"]) == (503, "draining")
        answers = [each.result() for each in asked]
    assert served.process.wait(SHUTDOWN_SECONDS + 25) == 0
    assert time.monotonic() - started < SHUTDOWN_SECONDS + 15
    assert {status for status, _ in answers} <= {200, 503}
    assert [status for status, _ in answers].count(200) >= 20
    for status, text in answers:
        assert status == 200 or json.loads(text)["error"]["code"] == "draining"
    assert {text for _, text in answers[::4]} <= {"data: [DONE]"}
    assert not [pid for pid in children if processes.alive(pid)]


def _in_flight(served: Served) -> float:
    name = "smoothgate_requests_in_flight "
    (line,) = (
        line for line in httpx.get(served.metrics, timeout=60).text.splitlines() if line.startswith(name)
    )
    return float(line.removeprefix(name))
