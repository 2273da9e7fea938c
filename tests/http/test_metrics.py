"""Every metric: its name, type, unit, and that it moves."""

import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from smoothgate import metrics
from tests.fake_vllm import FakeVllm
from tests.quick_gate import OpenGate
from tests.whole_service import Gate, data_uri

# What a plain answer about a picture, streamed and whole, moves.
MOVED = {
    "smoothgate_request_seconds": "histogram",
    "smoothgate_first_text_seconds": "histogram",
    "smoothgate_stage_seconds": "histogram",
    "gen_ai_server_request_duration_seconds": "histogram",
    "gen_ai_server_time_to_first_token_seconds": "histogram",
    "gen_ai_server_time_per_output_token_seconds": "histogram",
    "gen_ai_client_token_usage": "histogram",
    "smoothgate_samples": "counter",
    "smoothgate_work": "counter",
    "smoothgate_samples_per_image": "histogram",
    "smoothgate_sampling_seconds": "counter",
    "smoothgate_batch_fill_ratio": "histogram",
    "smoothgate_cache_requests": "counter",
    "smoothgate_certificates": "counter",
    "smoothgate_gaussian_robustness_score": "histogram",
    "smoothgate_certified_radius": "histogram",
}
# Tests of what else moves one: each holds it against a fault or a load that it makes.
ELSEWHERE = {
    "smoothgate_requests_in_flight": "test_access",
    "smoothgate_event_loop_lag_seconds": "test_event_loop",
    "smoothgate_body_bytes": "test_access",
    "smoothgate_limits_failures": "../gate/test_fleet_limits",
    "smoothgate_account_requests": "test_account_metrics",
    "smoothgate_account_refusals": "test_account_metrics",
    "smoothgate_account_work": "test_account_metrics",
    "smoothgate_account_work_returned": "test_account_metrics",
    "smoothgate_account_tokens": "test_account_metrics",
    "smoothgate_refusals": "test_metrics",
    "smoothgate_ready": "test_admission",
    "smoothgate_engine_info": "test_metrics",
    "smoothgate_reserved_work": "test_admission",
    "smoothgate_degraded_requests": "test_admission",
    "smoothgate_work_dropped": "test_operation",
    "smoothgate_queued_samples": "test_admission",
    "smoothgate_queued_work": "test_admission",
    "smoothgate_queued_seconds": "test_admission",
    "smoothgate_sampler_failures": "test_operation",
    "smoothgate_failed_images": "test_operation",
    "smoothgate_batches_halved": "test_operation",
    "smoothgate_sampler_up": "test_operation",
    "smoothgate_decoders_up": "../gate/test_image_decoding",
    "smoothgate_decoder_failures": "../gate/test_image_decoding",
    "smoothgate_canaries": "test_admission",
    "smoothgate_canary_score": "test_admission",
    "smoothgate_store_failures": "test_certificates",
    "smoothgate_votes": "test_answer_certificates",
    "smoothgate_answer_certificates": "test_answer_certificates",
    "smoothgate_answer_radius": "test_answer_certificates",
    "smoothgate_generations_per_answer": "test_answer_certificates",
    "smoothgate_generations_in_flight": "test_answer_certificates",
    "smoothgate_queued_generations": "test_answer_certificates",
    "smoothgate_reserved_generations": "test_answer_certificates",
    "smoothgate_log_entries": "test_log",
    "smoothgate_log_up": "test_log",
    "smoothgate_log_failures": "test_log",
    "smoothgate_engine_up": "test_operation",
    "smoothgate_engine_restarts": "test_operation",
    "smoothgate_build": "test_description",
}
STAGES = {"decode", "queue", "select", "certify", "engine_first_token", "engine"}


def test_every_metric_is_listed_with_its_type_and_its_unit_in_the_name() -> None:
    ours = {m._name: m for m in vars(metrics).values() if isinstance(m, MetricWrapperBase)}
    assert set(ours) == set(MOVED) | set(ELSEWHERE)
    for name, file in ELSEWHERE.items():
        test = (Path(__file__).parent / f"{file}.py").read_text()
        assert f'"{name}' in test or f"'{name}" in test, f"{file} does not look at {name}"
    for name, metric in ours.items():
        # OpenTelemetry has names of its own for what every language model has.
        assert re.fullmatch(r"(smoothgate|gen_ai)_[a-z_]+", name)
        assert metric._documentation.endswith("."), name
        assert not re.search(r"_(ms|millis|minutes|percent)(_|$)", name)
        if metric._type == "counter":
            assert not name.endswith("_total"), "the client library appends it"


def test_an_answer_moves_what_an_answer_should_move(open_gate: OpenGate) -> None:
    gate = open_gate(cache_mib=16)

    def scraped() -> dict[str, tuple[str, float]]:
        text = gate.http.get("/metrics").text
        found = {}
        for family in text_string_to_metric_families(text):
            totals = [
                s.value for s in family.samples if s.name in (f"{family.name}_total", f"{family.name}_count")
            ]
            found[family.name] = family.type, sum(totals)
        return found

    before = scraped()
    assert gate.ask("What digit is shown?", "three.png").status_code == 200
    assert _streamed(gate, "/v1/chat/completions").endswith("[DONE]\n\n")
    after = scraped()
    for name, kind in MOVED.items():
        assert after[name][0] == kind
        assert after[name][1] > before[name][1], name
    for stage in STAGES:
        assert gate.metric(_count(stage)) > 0, stage
    assert gate.metric("smoothgate_queued_seconds") == 0
    assert gate.metric("smoothgate_engine_up") == 1


def _streamed(gate: Gate, path: str) -> str:
    image = {"type": "image_url", "image_url": {"url": data_uri("two.png")}}
    body: dict[str, Any] = {"message": "What digit is shown?", "images": [data_uri("two.png")]}
    if path != "/v1/chat":
        body = {"messages": [{"role": "user", "content": [image]}]}
    with gate.http.stream("POST", path, json=body | {"stream": True}) as response:
        assert response.status_code == 200
        return response.read().decode()


def _count(stage: str) -> str:
    return f'smoothgate_stage_seconds_count{{stage="{stage}"}}'


@pytest.mark.parametrize("path", ["/v1/chat", "/v1/chat/completions"])
def test_both_routes_count_their_streams_and_the_stages_of_the_engine(quick_gate: Gate, path: str) -> None:
    watched = [
        f'smoothgate_request_seconds_count{{outcome="ok",route="{path}"}}',
        *map(_count, ("select", "certify", "engine_first_token", "engine")),
    ]
    before = [quick_gate.metric(name) for name in watched]
    assert _streamed(quick_gate, path).endswith("[DONE]\n\n")
    assert [quick_gate.metric(name) for name in watched] == [value + 1 for value in before]


@pytest.mark.parametrize("path", ["/v1/chat", "/v1/chat/completions"])
def test_an_answer_without_a_message_is_a_502_and_counted_as_one(
    quick_gate: Gate, vllm: FakeVllm, path: str
) -> None:
    name = f'smoothgate_request_seconds_count{{outcome="engine_failed",route="{path}"}}'
    before = quick_gate.metric(name)
    vllm.fault = "no message"
    text = (
        {"message": "Hello"} if path == "/v1/chat" else {"messages": [{"role": "user", "content": "Hello"}]}
    )
    response = quick_gate.http.post(path, json=text)
    assert (response.status_code, response.json()["error"]["code"]) == (502, "engine_failed")
    assert quick_gate.metric(name) == before + 1


def test_a_first_text_is_late_by_what_came_before_it(quick_gate: Gate, vllm: FakeVllm) -> None:
    """The time counts from the request, with the sampling that a stream waits for; a failure names itself."""
    names = [
        'smoothgate_first_text_seconds_sum{route="/v1/chat/completions"}',
        'smoothgate_stage_seconds_sum{stage="select"}',
    ]
    before = [quick_gate.metric(name) for name in names]
    assert _streamed(quick_gate, "/v1/chat/completions").endswith("[DONE]\n\n")
    first, select = (quick_gate.metric(name) - earlier for name, earlier in zip(names, before, strict=True))
    assert first > select > 0
    labels = {
        "error_type": "engine_failed",
        "gen_ai_operation_name": "chat",
        "gen_ai_provider_name": "vllm",
        "gen_ai_request_model": "smoothgate-demo",
    }
    name = "gen_ai_server_request_duration_seconds_count"
    failed = REGISTRY.get_sample_value(name, labels) or 0
    vllm.fault = "no message"
    assert quick_gate.ask("Hello").status_code == 502
    assert REGISTRY.get_sample_value(name, labels) == failed + 1


def test_the_metrics_say_what_is_served(quick_gate: Gate) -> None:
    certificate = quick_gate.ask("What digit is shown?", "seven.png").json()["certificates"][0]
    digests = (certificate["model"]["digest"], certificate["model"]["psm_digest"])
    lines = quick_gate.http.get("/metrics").text.splitlines()
    (info,) = (line for line in lines if line.startswith("smoothgate_build_info{"))
    assert all(f'="{digest}"' in info for digest in digests)
    assert 'model="smoothgate-demo"' in info
    (engine,) = (line for line in lines if line.startswith("smoothgate_engine_info{"))
    assert engine.endswith(" 1.0")


def test_a_refusal_before_the_route_is_counted(open_gate: OpenGate) -> None:
    gate = open_gate()
    name = 'smoothgate_refusals_total{code="draining"}'
    before = gate.metric(name)
    gate.service.in_flight.draining = True
    assert gate.ask("Hello").status_code == 503
    assert gate.metric(name) == before + 1
