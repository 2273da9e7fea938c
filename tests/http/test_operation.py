"""Probes, metrics, documentation, and what happens when parts die."""

import copy
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from torch import Tensor

from smoothgate.engine import LocalEngine, Supervision
from smoothgate.gate import accounts
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.sampling.sampler import LOST_AFTER, Sampler
from smoothgate.vision import Layout
from tests import metric_lines, processes
from tests.fake_vllm import FakeVllm
from tests.quick_gate import OpenGate
from tests.whole_service import FEW, Gate, data_uri, image_part


def _wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_probes(quick_gate: Gate) -> None:
    assert quick_gate.http.get("/health/live").json() == {"status": "ok"}
    assert quick_gate.http.get("/health/ready").json() == {"status": "ok"}


def test_metrics_move_with_a_request(open_gate: OpenGate) -> None:
    gate = open_gate()
    watched = {
        'smoothgate_request_seconds_count{outcome="ok",route="/v1/chat"}': 1,
        "smoothgate_samples_total": 80,
        "smoothgate_samples_per_image_sum": 80,
        "smoothgate_certificates_total": 1,
        'smoothgate_stage_seconds_count{stage="select"}': 1,
    }
    before = {name: gate.metric(name) for name in watched}
    assert gate.ask("What digit is shown?", "seven.png").status_code == 200
    for name, moved in watched.items():
        assert gate.metric(name) - before[name] == moved, name
    assert gate.metric("smoothgate_engine_up") == 1
    assert gate.metric("smoothgate_sampler_up") == 1
    assert gate.metric("smoothgate_queued_samples") == 0


def test_clients_are_not_all_told_to_come_back_at_the_same_time(open_gate: OpenGate) -> None:
    gate = open_gate()
    gate.service.in_flight.draining = True
    waits = [int(gate.ask("Hello").headers["retry-after"]) for _ in range(30)]
    waits += [int(gate.http.get("/health/ready").headers["retry-after"]) for _ in range(30)]
    assert len(set(waits[:30])) > 1
    assert len(set(waits[30:])) > 1
    assert all(5 <= seconds <= 8 for seconds in waits)


def test_without_a_language_model_it_certifies_and_refuses_chats(open_gate: OpenGate, vllm: FakeVllm) -> None:
    gate = open_gate(engine="none", canary_seconds=300)
    certified = gate.http.post("/v1/certify", json={"images": [data_uri("seven.png")]})
    assert certified.status_code == 200
    assert len(certified.json()["certificates"]) == 1
    hello = [{"role": "user", "content": "Hello"}]
    for path, body in (
        ("/v1/chat", {"message": "Hello"}),
        ("/v1/chat", {"message": "Hello", "stream": True}),
        ("/v1/chat/completions", {"messages": hello}),
        ("/v1/chat/completions", {"messages": hello, "stream": True}),
    ):
        refused = gate.http.post(path, json=body)
        assert refused.status_code == 404
        _check_shape(refused.json(), "no_language_model")
    assert math.isnan(gate.metric("smoothgate_engine_up"))
    assert not vllm.bodies
    assert not vllm.asked
    assert gate.http.get("/").status_code == 404


def test_a_refusal_is_counted_by_its_code(quick_gate: Gate) -> None:
    name = 'smoothgate_request_seconds_count{outcome="invalid_base64",route="/v1/chat"}'
    before = quick_gate.metric(name)
    quick_gate.http.post("/v1/chat", json={"message": "x", "images": ["data:image/png;base64,%"]})
    assert quick_gate.metric(name) == before + 1


def test_the_examples_in_the_documentation_are_short_and_work_when_pasted(open_gate: OpenGate) -> None:
    gate = open_gate(n_certify=256)
    paths = gate.http.get("/openapi.json").json()["paths"]
    tried = set()
    for path in ("/v1/chat", "/v1/chat/completions", "/v1/certify"):
        for name, example in paths[path]["post"]["requestBody"]["content"]["application/json"][
            "examples"
        ].items():
            value = example["value"]
            assert len(json.dumps(value)) < 2048
            assert example["summary"]
            response = gate.http.post(path, json=value)
            assert response.status_code == 200, (path, name, response.text)
            if name == "stream":
                assert '"certificates": [{' in response.text
            elif name == "answer":
                assert response.json()["answer_certificate"]["outcome"] == "certified"
            else:
                (certificate,) = response.json()["certificates"]
                assert certificate["outcome"] == ("certified" if name == "target" else "bounded")
            tried.add(name)
    assert tried == {"picture", "target", "answer", "stream", "history"}


@pytest.mark.parametrize("path", ["/v1/chat", "/v1/chat/completions", "/v1/certify"])
def test_what_is_certified_is_in_the_schema_of_the_answer(quick_gate: Gate, path: str) -> None:
    document = quick_gate.http.get("/openapi.json").json()
    content = document["paths"][path]["post"]["responses"]["200"]["content"]
    name = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
    fields = document["components"]["schemas"][name]["properties"]
    assert "IssuedCertificate" in json.dumps(fields["certificates"])
    if path != "/v1/certify":
        assert "IssuedAnswerCertificate" in json.dumps(fields["answer_certificate"])
        assert "certificates" in content["text/event-stream"]["schema"]["description"]


def test_every_answer_has_a_schema(quick_gate: Gate) -> None:
    paths = quick_gate.http.get("/openapi.json").json()["paths"]
    for path, methods in paths.items():
        for method, operation in methods.items():
            for kind in operation["responses"]["200"]["content"].values():
                free = {"additionalProperties": True, "type": "object"}
                schema = {key: value for key, value in kind["schema"].items() if key != "title"}
                assert schema not in ({}, free) or path == "/v1/certificates/schema", (method, path)


def test_a_sane_request_id_is_kept_and_another_is_not(quick_gate: Gate) -> None:
    body = {"message": "Hello", "max_tokens": 2}
    kept = quick_gate.http.post("/v1/chat", json=body, headers={"X-Request-Id": "trace-7"})
    assert kept.headers["x-request-id"] == kept.json()["id"] == "trace-7"
    made = quick_gate.http.post("/v1/chat", json=body, headers={"X-Request-Id": "x" * 500})
    assert len(made.headers["x-request-id"]) == 32


LONG: dict[str, Any] = {
    "message": "What digit is shown?",
    "images": [data_uri("seven.png")],
    "smoothing": {"n_certify": 8000},
}


def test_sampling_stops_when_the_client_leaves(open_gate: OpenGate) -> None:
    gate = open_gate()
    before = gate.metric("smoothgate_work_dropped_total")
    gate.leave("/v1/chat", LONG, once=lambda: gate.metric("smoothgate_queued_samples") > 0)
    _wait_until(lambda: gate.metric("smoothgate_work_dropped_total") - before > 1000)
    assert gate.metric("smoothgate_queued_samples") == 0


def test_sampling_stops_when_the_client_leaves_a_stream(open_gate: OpenGate) -> None:
    gate = open_gate()
    before = gate.metric("smoothgate_work_dropped_total")
    with gate.http.stream("POST", "/v1/chat", json=LONG | {"stream": True}) as response:
        next(response.iter_lines())
    _wait_until(lambda: gate.metric("smoothgate_work_dropped_total") - before > 1000)
    assert gate.metric("smoothgate_queued_samples") == 0


def test_a_lost_device_fails_liveness(open_gate: OpenGate) -> None:
    """After some errors of CUDA, every call fails until the process ends."""
    gate = open_gate()
    sampler = gate.service.smoother.loaded.sampler
    forward = sampler._forwards[0]
    counted = 'smoothgate_failed_images_total{reason="batch"}'
    before = gate.metric(counted)

    def lost(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    forward.units = lost
    for number in range(LOST_AFTER):
        assert gate.http.get("/health/live").status_code == 200
        refused = gate.ask("What digit is shown?", "seven.png")
        assert (refused.status_code, refused.json()["error"]["code"]) == (500, "sampler_failed")
        assert gate.metric(counted) == before + number + 1
    live, ready = gate.http.get("/health/live"), gate.http.get("/health/ready")
    assert (live.status_code, live.json()["problems"]) == (503, {"sampler": "device lost"})
    assert (ready.status_code, ready.json()["problems"]) == (503, {"sampler": "device lost"})


def test_a_batch_that_memory_has_no_room_for_is_answered_all_the_same(open_gate: OpenGate) -> None:
    gate = open_gate()
    forward = gate.service.smoother.loaded.sampler._forwards[0]
    encode = forward.units

    def small(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        if len(z) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return encode(z, sigma, layout)

    forward.units = small
    before = gate.metric("smoothgate_batches_halved_total")
    assert gate.ask("What digit is shown?", "seven.png").status_code == 200
    assert gate.metric("smoothgate_batches_halved_total") > before


def test_a_sampler_that_hangs_for_long_fails_liveness(
    quick_gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sampler, "stalled_seconds", property(lambda self: 181.0))
    assert quick_gate.http.get("/health/live").json()["problems"] == {"sampler": "hangs"}


def _engine_processes(gate: Gate) -> dict[int, str]:
    """Process id -> command line of the vLLM that a gate has started: this process may own others."""
    engine = gate.service.engine
    assert isinstance(engine, LocalEngine)
    (guard,) = (pid for pid, line in processes.mentioning(str(engine.socket)).items() if "guard.py" in line)
    return processes.descendants(guard)


def _kill_engine(gate: Gate) -> None:
    for pid, command in _engine_processes(gate).items():
        if "vllm.entrypoints" in command:
            os.kill(pid, signal.SIGKILL)


def _check_shape(error: dict[str, Any], code: str) -> None:
    assert set(error) == {"error"}
    assert set(error["error"]) == {"message", "type", "param", "code"}
    assert error["error"]["code"] == code


@pytest.mark.engine
def test_an_engine_killed_in_mid_request_is_a_clear_error_and_comes_back(supervising_gate: Gate) -> None:
    gate = supervising_gate
    restarts = gate.service.engine.status.restarts
    counted = gate.metric("smoothgate_engine_restarts_total")
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 900,
        "ignore_eos": True,
        "temperature": 1,
        "n": 16,  # so much work that it is under way whenever this test comes to read it
    }
    # vLLM's server takes seconds over its first answers, while its core goes on: it gives short ones before.
    for stream in (False, True):
        gate.http.post("/v1/chat/completions", json=body | {"max_tokens": 2, "stream": stream})
    whole: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: whole.append(gate.http.post("/v1/chat/completions", json=body)))
    asking.start()
    events: list[str] = []
    with gate.http.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            if line:
                events.append(line.removeprefix("data: "))
            if len(events) == 3:
                _kill_engine(gate)
    _check_shape(json.loads(events[-1]), "engine_failed")
    asking.join(30)
    assert whole[0].status_code == 502, whole[0].text
    _check_shape(whole[0].json(), "engine_failed")

    _wait_until(lambda: gate.http.get("/health/ready").status_code == 503)
    refused = gate.ask("Hello")
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    _check_shape(refused.json(), "not_ready")
    assert gate.http.get("/health/live").status_code == 200
    # The encoder is not the engine: certificates are still made.
    assert gate.http.post("/v1/certify", json={"images": [data_uri("seven.png")]}).status_code == 200

    gate.wait_ready()
    assert gate.service.engine.status.restarts == restarts + 1
    assert gate.metric("smoothgate_engine_restarts_total") == counted + 1
    assert gate.ask("What digit is shown?", "seven.png").json()["answer"] == "The digit is 7."


@pytest.mark.engine
def test_a_hung_engine_is_killed_and_started_again(
    supervising_gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = supervising_gate
    engine = gate.service.engine
    restarts = engine.status.restarts
    monkeypatch.setattr(engine, "_supervision", Supervision(health_interval=0.5, health_timeout=3.0))
    for pid in _engine_processes(gate):
        os.kill(pid, signal.SIGSTOP)
    started = time.monotonic()
    answer = gate.ask("Hello")
    assert time.monotonic() - started < 30
    assert answer.status_code in (502, 503, 504)
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    _wait_until(lambda: engine.status.restarts == restarts + 1, 30)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_sampler_fails_its_requests_at_once_and_comes_back(
    open_gate: OpenGate, demo_encoder: UnitEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadly = True

    def units(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        if deadly:
            raise SystemExit
        return demo_encoder.units(z, sigma, layout)

    encoder = copy.copy(demo_encoder)
    monkeypatch.setattr(encoder, "units", units)
    gate = open_gate(encoder=encoder)
    failures = gate.metric("smoothgate_sampler_failures_total")
    with monkeypatch.context() as patch:
        patch.setattr(Sampler, "start", lambda self: None)
        failed = gate.ask("What digit is shown?", "seven.png")
        assert failed.status_code == 500
        _check_shape(failed.json(), "sampler_failed")
        ready = gate.http.get("/health/ready")
        assert (ready.status_code, ready.json()["problems"]) == (503, {"sampler": "down"})
        assert gate.metric("smoothgate_sampler_up") == 0
        assert gate.metric("smoothgate_sampler_failures_total") > failures
        assert gate.ask("What digit is shown?", "seven.png").status_code == 503
        assert gate.http.get("/health/live").status_code == 200
    deadly = False
    gate.wait_ready(30)
    assert gate.ask("What digit is shown?", "seven.png").status_code == 200
    assert gate.metric("smoothgate_sampler_up") == 1


def _of_engine(vllm: str, start: str) -> float:
    """The sum of vLLM's series whose line starts so."""
    return metric_lines.total(httpx.get(f"{vllm}/metrics", timeout=60).text, start)


@pytest.mark.engine
def test_the_same_picture_again_costs_nothing(gate: Gate, demo_vllm: str) -> None:
    """The second turn of a chat: no noise is drawn, and vLLM has the tokens of the picture already."""
    # Terms of which no other test can have left a result.
    few = FEW | {"sigma": 0.47}
    # vLLM keeps whole blocks, of 128 tokens on a CPU.
    question = "Look at it well. " * 60 + "What digit is shown?"
    drawn = gate.metric("smoothgate_samples_total")
    first = gate.ask(question, "seven.png", max_tokens=8, smoothing=few).json()
    assert gate.metric("smoothgate_samples_total") - drawn == 320
    hits = gate.metric('smoothgate_cache_requests_total{outcome="hit"}')
    known = _of_engine(demo_vllm, "vllm:prefix_cache_hits_total")
    images = [image_part("seven.png"), {"type": "text", "text": question}]
    history = [{"role": "user", "content": images}, {"role": "assistant", "content": first["answer"]}]
    body = {"message": "Is it even or odd?", "history": history, "smoothing": few, "max_tokens": 8}
    second = gate.http.post("/v1/chat", json=body).json()
    assert gate.metric("smoothgate_samples_total") - drawn == 320
    assert gate.metric('smoothgate_cache_requests_total{outcome="hit"}') - hits == 1
    (one,), (two,) = first["certificates"], second["certificates"]
    assert (one["cached"], two["cached"]) == (False, True)
    changed = {"cached", "time", "jws", "request_id", "question", "answer"}
    assert {k: v for k, v in one.items() if k not in changed} == {
        k: v for k, v in two.items() if k not in changed
    }
    assert _of_engine(demo_vllm, "vllm:prefix_cache_hits_total") - known >= 128


def test_other_terms_are_another_result(open_gate: OpenGate) -> None:
    gate = open_gate(cache_mib=16, n_certify=128)
    _certificate(gate)
    assert _certificate(gate)["cached"]
    for smoothing in ({"sigma": 0.25}, {"eps": [0.1]}, {"n_certify": 129}):
        assert not _certificate(gate, smoothing=smoothing)["cached"]


def test_an_account_never_gets_the_result_of_another(open_gate: OpenGate, tmp_path: Path) -> None:
    made = dict(accounts.new(name) for name in ("alice", "bob"))
    accounts.save(tmp_path / "accounts.json", list(made))
    gate = open_gate(cache_mib=16, accounts=tmp_path / "accounts.json")
    cached, seeds = [], []
    alice, bob = made.values()
    for key in (alice, bob, alice, bob):
        gate.http.headers["Authorization"] = f"Bearer {key}"
        certificate = _certificate(gate)
        cached.append(certificate["cached"])
        seeds.append(certificate["noise"]["seed"])
    assert cached == [False, False, True, True]
    assert len(set(seeds)) == 1


def test_the_cache_can_be_switched_off(open_gate: OpenGate) -> None:
    gate = open_gate(cache_mib=0)
    drawn = gate.metric("smoothgate_samples_total")
    certificates = [_certificate(gate) for _ in range(2)]
    assert not any(certificate["cached"] for certificate in certificates)
    samples = sum(each["noise"]["n_select"] + each["noise"]["n_certify"] for each in certificates)
    assert gate.metric("smoothgate_samples_total") - drawn >= samples


def _certificate(gate: Gate, **fields: Any) -> dict[str, Any]:
    certificate: dict[str, Any]
    (certificate,) = gate.ask("What digit is shown?", "seven.png", **fields).json()["certificates"]
    return certificate
