"""The nginx in front of a vLLM in Kubernetes, as it is configured: what it lets through, and what not."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from smoothgate.engine.engine_client import Route
from smoothgate_lab.evaluation.running_service import free_port
from tests.deploy.stack import ROOT, answers, process
from tests.programs import program
from tests.waiting import wait_until

CONFIGURATION = ROOT / "deploy/components/vllm/front.conf"
KEY = {"Authorization": "Bearer key"}
POSTED = {Route.CHAT, Route.COMPLETIONS, Route.TOKENIZE}


@dataclass
class Vllm:
    """Answers every path with 200, and asks for a key under /v1 alone, as vLLM does. Keeps what came."""

    came: list[str] = field(default_factory=list)
    port: int = 0

    def server(self) -> ThreadingHTTPServer:
        came = self.came

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                came.append(f"{self.command} {self.path}")
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                refused = self.path.startswith("/v1") and self.headers.get("Authorization") != "Bearer key"
                self.send_response(401 if refused else 200)
                if b"stream" in body:
                    self.send_header("Transfer-Encoding", "chunked")
                    self.end_headers()
                    for piece in (b"1\r\na\r\n", b"1\r\nb\r\n0\r\n\r\n"):
                        self.wfile.write(piece)
                        time.sleep(0.5)
                    return
                answer = json.dumps({"bytes": len(body)}).encode()
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = server.server_address[1]
        return server


@dataclass(frozen=True)
class Front:
    url: str
    metrics: str
    vllm: Vllm


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    command = program("nginx", "/usr/sbin/nginx", package="the Debian package nginx")
    folder = tmp_path_factory.mktemp("front")
    vllm = Vllm()
    server = vllm.server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    http, metrics = free_port(), free_port()
    text = CONFIGURATION.read_text().replace("/tmp/", f"{folder}/")
    for old, new in (
        ("server 127.0.0.1:8001;", f"server 127.0.0.1:{vllm.port};"),
        ("listen 8000;", f"listen 127.0.0.1:{http};"),
        ("listen 9090;", f"listen 127.0.0.1:{metrics};"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    path = folder / "front.conf"
    path.write_text(text)
    started = Front(f"http://127.0.0.1:{http}", f"http://127.0.0.1:{metrics}", vllm)
    log = folder / "log"
    with process([command, "-c", str(path), "-e", "stderr"], log):
        wait_until(lambda: answers(f"{started.url}/health"), 30, log.read_text)
        yield started
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("route", list(Route))
def test_what_gates_call_is_let_through_by_its_method_alone(front: Front, route: Route) -> None:
    method, other = ("POST", "GET") if route in POSTED else ("GET", "POST")
    assert httpx.request(method, front.url + route, headers=KEY, timeout=60).status_code == 200
    assert front.vllm.came[-1] == f"{method} {route}"
    before = len(front.vllm.came)
    for wrong in (other, "PUT", "DELETE"):
        assert httpx.request(wrong, front.url + route, headers=KEY, timeout=60).status_code == 403
    assert len(front.vllm.came) == before


@pytest.mark.parametrize(
    "path",
    [
        "/invocations",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/chat/completions/",
        "/v1/chat/completions/render",
        "/pooling",
        "/score",
        "/detokenize",
        "/metrics",
        "/key",
        "/",
        "/v1/models/../../invocations",
        "//invocations",
        "/%69nvocations",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_nothing_else_is(front: Front, method: str, path: str) -> None:
    before = len(front.vllm.came)
    assert httpx.request(method, front.url + path, headers=KEY, timeout=60).status_code == 404
    assert len(front.vllm.came) == before


def test_another_spelling_of_a_route_arrives_in_the_one_that_was_checked(front: Front) -> None:
    for spelled in ("/x/..//v1/models", "/v1/%6dodels"):
        assert httpx.get(front.url + spelled, headers=KEY, timeout=60).status_code == 200
        assert front.vllm.came[-1] == "GET /v1/models"


@pytest.mark.parametrize("route", [Route.CHAT, Route.COMPLETIONS, Route.TOKENIZE, Route.MODELS])
def test_a_key_is_asked_for_where_vllm_itself_would_not(front: Front, route: Route) -> None:
    method = "POST" if route in POSTED else "GET"
    assert httpx.request(method, front.url + route, timeout=60).status_code == 401
    assert f"{method} {Route.TOKENIZE}" != front.vllm.came[-1]


def test_large_bodies_pass_and_answers_come_as_they_are_made(front: Front) -> None:
    large = b"a" * 50_000_000
    answer = httpx.post(front.url + Route.CHAT, content=large, headers=KEY, timeout=60)
    assert answer.json() == {"bytes": len(large)}
    started = time.monotonic()
    with httpx.stream(
        "POST", front.url + Route.CHAT, json={"stream": True}, headers=KEY, timeout=60
    ) as stream:
        pieces = stream.iter_raw()
        assert next(pieces) == b"a"
        assert time.monotonic() - started < 0.4
        assert b"".join(pieces) == b"b"


def test_the_port_of_metrics_shows_nothing_else(front: Front) -> None:
    assert httpx.get(f"{front.metrics}/metrics", timeout=60).status_code == 200
    before = len(front.vllm.came)
    for route in Route:
        assert httpx.get(front.metrics + route, headers=KEY, timeout=60).status_code == 404
    assert len(front.vllm.came) == before


def test_each_route_that_gates_call_is_listed_and_no_other() -> None:
    listed = {
        line.split()[2]
        for line in CONFIGURATION.read_text().splitlines()
        if line.strip().startswith("location =") and "limit_except" in line
    }
    assert listed == set(Route)
