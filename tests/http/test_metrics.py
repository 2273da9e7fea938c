"""Every metric: its name, type, unit, and that it moves."""

import re
from pathlib import Path

import pytest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from smoothgate import metrics
from tests.whole_service import FEW, Gate, data_uri

pytestmark = pytest.mark.engine

# What a plain answer about a picture, streamed and whole, moves.
MOVED = {
    "smoothgate_request_seconds": "histogram",
    "smoothgate_stage_seconds": "histogram",
    "smoothgate_samples": "counter",
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
    "smoothgate_refusals": "test_metrics",
    "smoothgate_ready": "test_admission",
    "smoothgate_reserved_samples": "test_admission",
    "smoothgate_degraded_requests": "test_admission",
    "smoothgate_samples_dropped": "test_operation",
    "smoothgate_queued_samples": "test_admission",
    "smoothgate_queued_seconds": "test_admission",
    "smoothgate_sampler_failures": "test_operation",
    "smoothgate_sampler_up": "test_operation",
    "smoothgate_canaries": "test_admission",
    "smoothgate_canary_score": "test_admission",
    "smoothgate_store_failures": "test_certificates",
    "smoothgate_engine_up": "test_operation",
    "smoothgate_engine_restarts": "test_metrics",
}
STAGES = {"decode", "queue", "select", "certify", "engine_first_token", "engine"}


def test_every_metric_is_listed_with_its_type_and_its_unit_in_the_name() -> None:
    ours = {m._name: m for m in vars(metrics).values() if isinstance(m, MetricWrapperBase)}
    assert set(ours) == set(MOVED) | set(ELSEWHERE)
    constants = {m._name: name for name, m in vars(metrics).items() if isinstance(m, MetricWrapperBase)}
    for name, file in ELSEWHERE.items():
        test = Path(__file__).with_name(f"{file}.py").read_text()
        uses = [f'gate.metric("{name}', f"gate.metric('{name}", f"'{name}", f"metrics.{constants[name]}."]
        assert any(use in test for use in uses), f"{file} does not look at {name}"
    for name, metric in ours.items():
        assert re.fullmatch(r"smoothgate_[a-z_]+", name)
        assert metric._documentation.endswith("."), name
        assert not re.search(r"_(ms|millis|minutes|percent)(_|$)", name)
        if metric._type == "counter":
            assert not name.endswith("_total"), "the client library appends it"


def test_an_answer_moves_what_an_answer_should_move(gate: Gate) -> None:
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
    image = {"type": "image_url", "image_url": {"url": data_uri("two.png")}}
    body = {
        "messages": [{"role": "user", "content": [image]}],
        "smoothing": FEW,
        "stream": True,
        "max_tokens": 3,
    }
    with gate.http.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.read()
    after = scraped()
    for name, kind in MOVED.items():
        assert after[name][0] == kind
        assert after[name][1] > before[name][1], name
    for stage in STAGES:
        assert gate.metric(f'smoothgate_stage_seconds_count{{stage="{stage}"}}') > 0, stage
    assert gate.metric("smoothgate_queued_seconds") == 0
    assert gate.metric("smoothgate_engine_restarts_total") == gate.runtime.engine.status.restarts
    assert gate.metric("smoothgate_engine_up") == 1


def test_a_refusal_before_the_route_is_counted(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    name = 'smoothgate_refusals_total{code="draining"}'
    before = gate.metric(name)
    monkeypatch.setattr(gate.runtime.gatekeeper, "draining", True)
    assert gate.ask("Hello").status_code == 503
    monkeypatch.undo()
    assert gate.metric(name) == before + 1
