"""The estimates of `smoothgate bench scaling`: counted right, and simulated with the deployed numbers."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaModel

from smoothgate_lab.benchmarks import costs, scaling

SCALED = Path(__file__).parents[3] / "deploy/components/autoscaling/scaledobject.yaml"


def test_the_tower_and_the_language_model_are_counted_as_torch_counts_them() -> None:
    with torch.device("meta"):
        sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}
        tower = CLIPVisionModel(
            CLIPVisionConfig(**sizes, num_hidden_layers=23, image_size=336, patch_size=14, projection_dim=768)
        ).eval()
        projector = torch.nn.Sequential(torch.nn.Linear(1024, 4096), torch.nn.Linear(4096, 4096))
        by_torch = costs.counted(
            lambda: projector(tower(torch.empty(1, 3, 336, 336)).last_hidden_state[:, 1:])
        )
        assert costs.llava().encoder == pytest.approx(by_torch, rel=0.005)

    sizes = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaModel(LlamaConfig(**sizes, num_key_value_heads=2, attn_implementation="eager")).eval()
    language = costs.Transformer(layers=2, width=64, mlp=160, gated=True, kv_width=32)
    by_torch = costs.counted(lambda: model(inputs_embeds=torch.zeros(1, 256, 64), use_cache=False))
    assert language.flops(256, 256) == pytest.approx(by_torch, rel=0.005)


def test_the_published_sizes_are_the_published_numbers_of_parameters() -> None:
    assert costs.llava().weight_bytes / 2 == pytest.approx(6.74e9, rel=0.01)
    assert costs.qwen().weight_bytes / 2 == pytest.approx(7.62e9, rel=0.01)
    assert costs.qwen_small().weight_bytes / 2 == pytest.approx(3.09e9, rel=0.01)


def test_two_gates_at_half_load_make_nobody_wait_for_long() -> None:
    run = scaling.simulate(0.8, "queued", 1.25)
    assert run.gates == scaling.LEAST
    # One queue at half its load (M/D/1) waits half a service time in the mean; the shorter of two, less.
    assert 1.25 <= run.p50 < 1.25 * 1.5


def test_gates_are_enough_in_the_end_and_a_careful_threshold_asks_for_fewer() -> None:
    eager = scaling.simulate(20.0, "queued", 1.0, scaling.EAGER_SECONDS)
    careful = scaling.simulate(20.0, "both", 1.0)
    for run in (eager, careful):
        assert run.gates > run.needed
        assert run.settled_refused == 0
    assert careful.most < eager.most
    assert careful.gates < 2.5 * careful.needed


def test_the_autoscaler_keeps_its_limits() -> None:
    scaler = scaling.Autoscaler(10, "queued", 30.0)
    assert scaler.decide(15.0, 10, 310.0, 0.0) == 10, "within the tolerance"
    assert scaler.decide(30.0, 10, 10_000.0, 0.0) == 20, "doubles at most"
    assert scaler.decide(45.0, 20, 10_000.0, 0.0) == 20, "within one period"
    assert scaler.decide(60.0 + scaling.STAY / 2, 20, 0.0, 0.0) == 20, "was wanted a while ago"
    assert scaler.decide(60.0 + 2 * scaling.STAY, 20, 0.0, 0.0) == 18, "a tenth at a time"


def test_the_simulation_has_the_numbers_that_are_deployed() -> None:
    spec = yaml.safe_load(SCALED.read_text())["spec"]
    assert (spec["minReplicaCount"], spec["pollingInterval"]) == (scaling.LEAST, scaling.INTERVAL)
    queued, busy = (float(trigger["metadata"]["threshold"]) for trigger in spec["triggers"])
    assert (queued, busy) == (scaling.QUEUED_SECONDS, scaling.BUSY)
    behaviour = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    up = {each["type"]: (each["value"], each["periodSeconds"]) for each in behaviour["scaleUp"]["policies"]}
    down = {
        each["type"]: (each["value"], each["periodSeconds"]) for each in behaviour["scaleDown"]["policies"]
    }
    assert up == {
        "Percent": (100 * scaling.GROWTH, scaling.GROWTH_PERIOD),
        "Pods": (scaling.GROWTH_PODS, scaling.GROWTH_PERIOD),
    }
    assert down == {
        "Percent": (100 * scaling.SHRINK, scaling.SHRINK_PERIOD),
        "Pods": (1, scaling.SHRINK_PERIOD),
    }
    assert behaviour["scaleDown"]["stabilizationWindowSeconds"] == scaling.STAY


def test_places_in_vllm_are_waited_for_as_erlang_says() -> None:
    places, answer, rate = 4, 2.0, 1.39
    small = replace(
        costs.cost(costs.llava(), costs.GPUS[-1], 100),
        sequences=places,
        sequence_seconds=answer,
        answers_per_second=places / answer,
    )
    run = scaling.engines(rate, small, 0.0, requests=400_000)
    assert run.engines == 1
    load = rate * answer
    full = load**places / math.factorial(places) / (1.0 - load / places)
    waits = full / (full + sum(load**n / math.factorial(n) for n in range(places)))
    # M/M/c: P(wait > t) = waits * exp(-(places / answer - rate) * t).
    assert run.wait_p99 == pytest.approx(math.log(waits / 0.01) / (places / answer - rate), rel=0.1)
    assert run.answer_p50 == pytest.approx(math.log(2.0) * answer, rel=0.05)


def test_a_certified_answer_costs_its_certificate_and_its_answer() -> None:
    for model in (costs.llava(), costs.qwen()):
        for gpu in costs.GPUS:
            one = costs.cost(model, gpu, scaling.SAMPLES)
            assert one.certify_seconds == pytest.approx(scaling.SAMPLES / one.samples_per_second)
            both = one.certify_seconds + 1.0 / one.answers_per_second
            assert one.answers_per_gpu_hour * both == pytest.approx(3600.0)


def test_more_memory_is_more_sequences_and_no_gpu_answers_faster_than_it_reads() -> None:
    small, _, large = (costs.cost(costs.llava(), gpu, 100) for gpu in costs.GPUS)
    assert small.sequences < large.sequences <= costs.MOST_SEQUENCES
    run = scaling.engines(10.0, large, costs.llava().embedding_bytes, requests=2000)
    assert run.engines == 1
    assert run.embedding_gbit == pytest.approx(0.503, rel=0.01)
