"""The whole service on the bundled demo model, with a real vLLM behind it."""

import asyncio
import base64
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from prometheus_client import generate_latest

from smoothgate.engine import Engine
from smoothgate.gate.build import build
from smoothgate.gate.service import Service
from smoothgate.playground.page_app import create_app
from smoothgate.sampling.smoother import Smoother
from smoothgate.settings import Settings
from tests import metric_lines
from tests.waiting import eventually

SAMPLES = Path(str(files("smoothgate.demo") / "samples"))
# Small enough for two cores; the defaults draw more.
FEW = {"n_select": 64, "n_certify": 256}


def data_uri(name: str) -> str:
    return "data:image/png;base64," + base64.b64encode((SAMPLES / name).read_bytes()).decode()


def image_part(name: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_uri(name)}}


@dataclass(frozen=True)
class Gate:
    """A service that runs in this process, behind a port of its own."""

    url: str
    settings: Settings
    service: Service
    http: httpx.Client
    smoothing: dict[str, Any]
    """What `ask` asks for."""

    @property
    def smoother(self) -> Smoother:
        return self.service.smoother.loaded

    def metric(self, start: str) -> float:
        """The sum of the series whose line starts so, as Prometheus would read them.

        They are read in this process: over HTTP, a service with accounts asks for a key.
        """
        return metric_lines.total(generate_latest().decode(), start)

    def wait_ready(self, seconds: float = 240) -> None:
        end = time.monotonic() + seconds
        while not self._is_ready():
            assert time.monotonic() < end, f"not ready: {self.service.health.problems()}"
            time.sleep(0.05)

    def wait_idle(self, seconds: float = 60) -> None:
        """Wait until nothing is left of earlier requests: a batch of one whose client has left is still drawn
        and counted, and metrics are those of the process.
        """
        end = time.monotonic() + seconds
        while self.service.in_flight.count or self.smoother.sampler.stalled_seconds:
            assert time.monotonic() < end, "work of an earlier request does not end"
            time.sleep(0.01)

    def _is_ready(self) -> bool:
        try:
            return self.http.get("/health/ready").status_code == 200
        except httpx.RemoteProtocolError:  # the kept connection was closed meanwhile: loading took its time
            return False

    def ask(self, message: str = "What digit is shown?", *names: str, **fields: Any) -> httpx.Response:
        body = {
            "message": message,
            "images": [data_uri(n) for n in names],
            "temperature": 0,
            "smoothing": self.smoothing,
        }
        return self.http.post("/v1/chat", json=body | fields)

    def leave(
        self,
        path: str,
        body: dict[str, Any],
        *,
        once: Callable[[], bool],
        headers: dict[str, str] | None = None,
    ) -> None:
        """Ask, and close the connection as soon as the condition holds, before an answer comes."""

        async def ask_and_leave() -> None:
            async with httpx.AsyncClient(base_url=self.url, timeout=60) as http:
                asked = asyncio.create_task(http.post(path, json=body, headers=headers))
                await eventually(once)
                assert not asked.done(), "an answer came first"
                asked.cancel()
                await asyncio.wait([asked])

        asyncio.run(ask_and_leave())


@pytest.fixture(scope="session")
def shared_gate(demo_vllm: str) -> Iterator[Gate]:
    """A service in this process, in front of the vLLM that all tests share.

    It sends one canary, at the start: metrics are those of the process, and other gates count in them too.
    """
    settings = Settings(
        _env_file=None, allow_smoothing_off=True, engine_url=demo_vllm, canary_seconds=24 * 3600
    )
    with opened(settings) as gate:
        yield gate


@pytest.fixture(scope="module")
def supervising_gate() -> Iterator[Gate]:
    """A service in this process with a vLLM of its own, which it starts again when a test kills it."""
    settings = Settings(_env_file=None, allow_smoothing_off=True, engine_max_model_len=1024)
    with opened(settings) as gate:
        gate.wait_ready()
        yield gate


@contextmanager
def opened(
    settings: Settings,
    *,
    engine: Engine | None = None,
    load_smoother: Callable[[], Smoother] | None = None,
    smoothing: dict[str, Any] = FEW,
) -> Iterator[Gate]:
    """A service, started and in the end stopped; `engine` and `load_smoother` as in `build`."""
    service = build(settings, engine=engine, load_smoother=load_smoother)
    app = create_app(service, settings)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none", timeout_graceful_shutdown=10))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        with httpx.Client(base_url=url, timeout=120) as http:
            while not server.started:
                assert thread.is_alive(), "the service did not start"
                time.sleep(0.02)
            yield Gate(url, settings, service, http, smoothing)
    finally:
        server.should_exit = True
        thread.join(60)
    assert not thread.is_alive()


@pytest.fixture
def gate(shared_gate: Gate) -> Gate:
    """The service, ready and idle."""
    shared_gate.wait_ready()
    shared_gate.wait_idle()
    return shared_gate
