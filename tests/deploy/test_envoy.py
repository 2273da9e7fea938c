"""A real Envoy, on `deploy/envoy/envoy.yaml`, in front of two gates that share a vLLM."""

import asyncio
import base64
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import yaml
from PIL import Image

from smoothgate import server
from smoothgate.settings import Settings
from smoothgate_lab.benchmarks.serving_bench import picture_uri
from tests import metric_lines
from tests.deploy.envoy import Envoy, manager_of, read_configuration, running_envoy
from tests.deploy.stack import ROOT, Gate, Stack, stopped
from tests.waiting import wait_until

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

STREAMS = 6
MODEL = "smoothgate-demo"
# As many tokens as the demo model has room for: seconds on any machine.
LONG = {"max_tokens": 1900, "extra_body": {"ignore_eos": True}}
JSON = {"Content-Type": "application/json"}
# A million lists in 3 MB.
KILLING = b'{"messages": [{"role": "user", "content": "Hello"}], "x": [' + b"[]," * 1_000_000 + b"[]]}"


@pytest.fixture(scope="module")
def gateway(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Envoy]:
    """As it is deployed."""
    with running_envoy(tmp_path_factory.mktemp("envoy"), stack.ports, read_configuration()) as started:
        yield started


@pytest.fixture(scope="module")
def impatient(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Envoy]:
    """With its two patiences cut to seconds: longer than vLLM takes to its first token, shorter than a stream
    is silent between two comments.
    """
    configuration = read_configuration()
    manager_of(configuration).update(stream_idle_timeout="8s", request_timeout="2s")
    with running_envoy(tmp_path_factory.mktemp("impatient"), stack.ports, configuration) as started:
        yield started


@pytest.fixture(scope="module")
def blind(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Envoy]:
    """Without the health checks that tell it which gate to leave alone."""
    configuration = read_configuration()
    del configuration["static_resources"]["clusters"][0]["health_checks"]
    with running_envoy(tmp_path_factory.mktemp("blind"), stack.ports, configuration) as started:
        yield started


def _client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0, timeout=300)


def _text(content: Any = "Hello") -> list[Any]:
    return [{"role": "user", "content": content}]


def _error(text: str) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(text)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_its_limits_are_those_of_the_service() -> None:
    settings = Settings(_env_file=None)
    configuration = read_configuration()
    manager = manager_of(configuration)
    (cluster,) = configuration["static_resources"]["clusters"]
    (buffer,) = (each for each in manager["http_filters"] if each["name"] == "envoy.filters.http.buffer")
    assert buffer["typed_config"]["max_request_bytes"] == settings.max_body_bytes
    assert _seconds(manager["request_timeout"]) == settings.body_timeout_seconds
    silence = max(settings.request_timeout_seconds, settings.engine_read_timeout_seconds)
    assert _seconds(manager["stream_idle_timeout"]) > silence
    (options,) = cluster["typed_extension_protocol_options"].values()
    idle = _seconds(options["common_http_protocol_options"]["idle_timeout"])
    assert idle < server.KEEP_ALIVE_SECONDS


def test_it_routes_as_the_gateway_in_kubernetes_does() -> None:
    # The other one is the redirect to https, and an Envoy without Kubernetes has no certificate.
    route, _ = yaml.safe_load_all((ROOT / "deploy/components/gateway/routes.yaml").read_text())
    asked = {
        match["path"]["value"]: rule["timeouts"]["request"]
        for rule in route["spec"]["rules"]
        for match in rule["matches"]
    }
    configuration = read_configuration()
    manager = manager_of(configuration)
    (host,) = manager["route_config"]["virtual_hosts"]
    here = {
        each["match"].get("path") or each["match"]["path_separated_prefix"]: each["route"]["timeout"]
        for each in host["routes"]
    }
    assert here == asked
    policies = list(yaml.safe_load_all((ROOT / "deploy/components/envoy-gateway/policies.yaml").read_text()))
    client, backend = (each["spec"] for each in policies)
    assert client["timeout"]["http"] == {
        "requestHeadersReceivedTimeout": manager["request_headers_timeout"],
        "requestReceivedTimeout": manager["request_timeout"],
        "streamIdleTimeout": manager["stream_idle_timeout"],
    }
    longest = manager["common_http_protocol_options"]["max_stream_duration"]
    (connections,) = (
        each["typed_config"]["max_active_downstream_connections"]
        for each in configuration["overload_manager"]["resource_monitors"]
        if "connections" in each["name"]
    )
    (listener,) = configuration["static_resources"]["listeners"]
    assert client["connection"] == {
        "connectionLimit": {"value": connections, "maxStreamDuration": f"{_seconds(longest) / 60:.0f}m"},
        "bufferLimit": f"{listener['per_connection_buffer_limit_bytes'] // 1024}Ki",
    }
    (cluster,) = configuration["static_resources"]["clusters"]
    (breaker,) = cluster["circuit_breakers"]["thresholds"]
    assert backend["circuitBreaker"] == {
        "maxConnections": breaker["max_connections"],
        "maxPendingRequests": breaker["max_pending_requests"],
        "maxParallelRequests": breaker["max_requests"],
    }
    retry = host["retry_policy"]
    assert backend["retry"] == {
        "numRetries": retry["num_retries"],
        "retryOn": {
            "triggers": retry["retry_on"].split(","),
            "httpStatusCodes": retry["retriable_status_codes"],
        },
    }
    # What ended one gate must not be sent to the next: these triggers mean that a gate had not begun.
    assert set(retry["retry_on"].split(",")) == {
        "connect-failure",
        "refused-stream",
        "retriable-status-codes",
    }


def _seconds(duration: str) -> float:
    assert duration.endswith("s")
    return float(duration[:-1])


def test_what_is_the_clusters_is_not_routed(gateway: Envoy) -> None:
    for path in ("/metrics", "/health/ready", "/health/live", "/v1-and-more"):
        refused = httpx.get(gateway.url + path, timeout=60)
        assert (refused.status_code, _error(refused.text)["code"]) == (404, "route_not_found")
    for path in ("/v1/models", "/docs", "/openapi.json", "/.well-known/jwks.json"):
        assert httpx.get(gateway.url + path, timeout=60).status_code == 200
    assert (
        httpx.get(f"{gateway.url}/v1/models", headers={"X-Request-Id": "mine"}, timeout=60).headers[
            "x-request-id"
        ]
        == "mine"
    )


def test_a_stream_is_not_buffered(stack: Stack, gateway: Envoy) -> None:
    """Its first chunk comes while the gate still waits for the others."""
    stream = _client(gateway.url).chat.completions.create(model=MODEL, messages=_text(), stream=True, **LONG)
    with stream:
        next(iter(stream))
        assert sum(_metric(gate, "smoothgate_requests_in_flight ") for gate in stack.gates) == 1


def test_a_body_above_the_limit_is_refused_and_one_below_it_passes(gateway: Envoy) -> None:
    large = b'{"message": "' + b"a" * Settings(_env_file=None).max_body_bytes + b'"}'
    refused = httpx.post(
        f"{gateway.url}/v1/chat", content=large, headers={"Content-Type": "application/json"}, timeout=60
    )
    assert (refused.status_code, _error(refused.text)["code"]) == (413, "request_payload_too_large")
    # What the gate itself refuses comes through as it is: here a picture above MAX_IMAGE_BYTES.
    picture = "data:image/png;base64," + base64.b64encode(bytes(11 * 2**20)).decode()
    refused = httpx.post(f"{gateway.url}/v1/chat", json={"message": "a", "images": [picture]}, timeout=60)
    assert (refused.status_code, _error(refused.text)["code"]) == (413, "image_too_large")


def test_a_slow_body_is_not_waited_for(impatient: Envoy) -> None:
    host, port = impatient.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(b"POST /v1/chat HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
        answer = connection.recv(65536).decode()
    assert answer.startswith("HTTP/1.1 408 ")
    assert _error(answer.split("\r\n\r\n")[1])["code"] == "request_overall_timeout"


@pytest.mark.parametrize(
    "seconds",
    [0, pytest.param(17, marks=pytest.mark.long, id="longer than Envoy's own limit for an answer")],
)
def test_silence_is_waited_for_as_long_as_it_is_said(
    stack: Stack, gateway: Envoy, impatient: Envoy, seconds: float
) -> None:
    """vLLM hangs and goes on: the stream does too. With less patience it ends, but not as if it were
    complete. vLLM hangs until it has ended, and for at least so many seconds.
    """
    ended: dict[str, Any] = {}
    begun = threading.Barrier(3)

    def stream(name: str, url: str) -> None:
        came = []
        try:
            for chunk in _client(url).chat.completions.create(
                model=MODEL, messages=_text(), stream=True, **LONG
            ):
                came.append(chunk)
                if len(came) == 2:
                    begun.wait(120)
        except (openai.APIError, httpx.HTTPError) as error:
            ended[name] = error
        else:
            ended[name] = came[-1].choices[0].finish_reason

    with ThreadPoolExecutor(2) as pool:
        streams = [
            pool.submit(stream, "patient", gateway.url),
            pool.submit(stream, "impatient", impatient.url),
        ]
        begun.wait(120)
        with stopped(stack.vllm.pid):
            started = time.monotonic()
            whole = httpx.post(f"{impatient.url}/v1/chat", json={"message": "Hello"}, timeout=60)
            assert (whole.status_code, _error(whole.text)["code"]) == (504, "stream_idle_timeout")
            streams[1].result()
            time.sleep(max(0.0, seconds - (time.monotonic() - started)))
        streams[0].result()
    assert ended["patient"] == "length"
    assert isinstance(ended["impatient"], Exception)
    # A gate whose vLLM is lost stays in rotation and refuses chats until it has asked vLLM again.
    wait_until(
        lambda: all(_metric(gate, "smoothgate_engine_up") == 1 for gate in stack.gates),
        120,
        lambda: "a gate does not find vLLM again",
    )
    wait_until(lambda: gateway.healthy() == 2, 120, lambda: "the gates did not come back")


def _large_picture() -> str:
    """Some megabytes, as a camera makes them."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (1200, 1200, 3), np.uint8)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


@dataclass
class Load:
    """Clients that each ask for another stream as soon as theirs has ended, half of them about a picture."""

    url: str
    answered: int = 0
    refused: int = 0
    failed: list[str] = field(default_factory=list)
    over: bool = False

    async def run(self) -> None:
        async with openai.AsyncOpenAI(
            base_url=f"{self.url}/v1", api_key="unused", max_retries=0, timeout=300
        ) as client:
            await asyncio.gather(*(self._one(client, number) for number in range(STREAMS)), self._kill())

    async def _kill(self) -> None:
        """Sends what held up a gate for minutes before bodies were looked at: each time it is refused."""
        async with httpx.AsyncClient(base_url=self.url, timeout=60) as client:
            while not self.over:
                answer = await client.post("/v1/chat/completions", content=KILLING, headers=JSON)
                if answer.status_code != 413 or _error(answer.text)["code"] != "too_many_values":
                    self.failed.append(answer.text)
                self.refused += 1
                await asyncio.sleep(3)

    async def _one(self, client: openai.AsyncOpenAI, number: int) -> None:
        while not self.over:
            number += STREAMS
            content: Any = [{"type": "text", "text": "What digit is shown?"}]
            if number % 2:
                uri = await asyncio.to_thread(picture_uri, number)
                content.insert(0, {"type": "image_url", "image_url": {"url": uri}})
            reasons, certificates = [], 0
            try:
                async for chunk in await client.chat.completions.create(
                    model=MODEL,
                    messages=_text(content),
                    stream=True,
                    max_tokens=60,
                    extra_body={"ignore_eos": True},
                ):
                    certificates += len(getattr(chunk, "certificates", []))
                    reasons += [choice.finish_reason for choice in chunk.choices if choice.finish_reason]
                if (reasons, certificates) != (["length"], number % 2):
                    self.failed.append(f"{reasons}, {certificates} certificates")
            except (openai.OpenAIError, httpx.HTTPError) as error:
                self.failed.append(repr(error))
                await asyncio.sleep(0.1)
            self.answered += 1


@pytest.mark.long
def test_replicas_roll_under_load_and_no_request_is_lost(stack: Stack, gateway: Envoy, blind: Envoy) -> None:
    rolling, _ = stack.gates
    load = Load(gateway.url)
    thread = threading.Thread(target=lambda: asyncio.run(load.run()))
    thread.start()
    try:
        wait_until(lambda: load.answered >= STREAMS, 300, lambda: load)
        with ThreadPoolExecutor(1) as pool:
            stopping = pool.submit(rolling.stop)
            _turned_away_and_sent_elsewhere(rolling, blind)
            stopping.result()
        at = load.answered
        wait_until(lambda: load.answered >= at + STREAMS, 300, lambda: load)
        rolling.start()
        wait_until(lambda: gateway.healthy() == 2, 60, lambda: "Envoy did not take it back")
        at = load.answered
        wait_until(lambda: load.answered >= at + 2 * STREAMS, 300, lambda: load)
    finally:
        load.over = True
        thread.join(300)
    again = _metric(rolling, 'smoothgate_request_seconds_count{outcome="ok",route="/v1/chat/completions"}')
    print(
        f"{load.answered} streams and {load.refused} killing requests, {len(load.failed)} failed; "
        f"{again:g} by the replica after its restart"
    )
    assert not load.failed
    assert load.refused >= 3
    assert again > 0


def _turned_away_and_sent_elsewhere(draining: Gate, blind: Envoy) -> None:
    """While it drains it answers 503; an Envoy that has not heard of it asks the other, body and all."""
    wait_until(lambda: _refuses(draining), 60, lambda: "it did not drain")
    before = blind.statistic("cluster.gate.upstream_rq_retry_success")
    answers = [httpx.get(f"{blind.url}/v1/models", timeout=60).status_code for _ in range(100)]
    assert answers == [200] * 100
    picture, certify = _large_picture(), f"{blind.url}/v1/certify"
    for _ in range(4):
        # The gate that is left has the whole load. It may have no room, and says when to ask again.
        while (answer := httpx.post(certify, json={"images": [picture]}, timeout=120)).status_code == 429:
            time.sleep(int(answer.headers["retry-after"]))
        assert answer.status_code == 200, answer.text
    assert blind.statistic("cluster.gate.upstream_rq_retry_success") > before


def _refuses(gate: Gate) -> bool:
    try:
        return httpx.get(f"{gate.url}/v1/models", timeout=60).status_code == 503
    except httpx.TransportError:
        return True


def _metric(gate: Gate, start: str) -> float:
    """The sum of the series whose line starts so."""
    text = httpx.get(f"http://127.0.0.1:{gate.metrics_port}/metrics", timeout=60).text
    return metric_lines.total(text, start)
