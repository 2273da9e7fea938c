"""A canary goes the whole way, and whatever it comes back with decides about readiness."""

import asyncio
import copy

import pytest
import torch
from prometheus_client import REGISTRY
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from smoothgate.gate.canary import Canary, canary_plan
from smoothgate.gate.health import Health
from smoothgate.gate.service import Service
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.vision import Layout
from tests.fake_vllm import FakeVllm
from tests.gate.conftest import StartService, WatchedEngine
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio


def _canary(service: Service, tolerance: float = 0.1) -> Canary:
    """A canary that is sent by hand."""
    plan = canary_plan(0.5, (0.25,), 0.5)
    return Canary(
        service.readiness, service.engine, service.questions, plan, tolerance=tolerance, pause_seconds=300
    )


def _problems(service: Service, canary: Canary) -> dict[str, str]:
    return Health(service.readiness, service.decoder, service.in_flight, canary, None).problems()


def _canaries(outcome: str) -> float:
    return REGISTRY.get_sample_value("smoothgate_canaries_total", {"outcome": outcome}) or 0.0


async def test_a_canary_that_comes_back_well_makes_the_service_ready(
    service: Service, vllm: FakeVllm
) -> None:
    canary = _canary(service)
    assert _problems(service, canary) == {"canary": "not sent yet"}
    before = _canaries("ok")
    await canary.send()
    assert _problems(service, canary) == {}
    assert _canaries("ok") == before + 1
    assert 0.9 < (REGISTRY.get_sample_value("smoothgate_canary_score") or 0) <= 1
    (body,) = vllm.bodies
    assert body["max_tokens"] == 1
    assert body["messages"][0]["content"][0]["type"] == "image_embeds"


def _calibrated(encoder: UnitEncoder, scores: dict[str, float], canary: dict[str, float]) -> UnitEncoder:
    """The encoder with other scores in its calibration."""
    calibrated = copy.copy(encoder)
    calibrated.calibration = encoder.calibration.with_smoothed(
        scores, encoder.calibration.figures.chance, encoder.psm_digest, canary
    )
    return calibrated


async def test_the_mean_over_other_pictures_is_not_held_against_the_canary(
    start_service: StartService, demo_encoder: UnitEncoder
) -> None:
    """An operator's model and pictures have another mean than the bundled digit."""
    encoder = _calibrated(demo_encoder, {"0.5": 0.55}, {})
    canary = _canary(await start_service(encoder=encoder))
    await canary.send()
    assert canary.problem is None


async def test_a_canary_whose_score_drifts_is_noticed(
    start_service: StartService, demo_encoder: UnitEncoder
) -> None:
    encoder = _calibrated(demo_encoder, {"0.5": 0.98}, {"0.5": 0.55})
    service = await start_service(encoder=encoder)
    canary = _canary(service)
    before = _canaries("drift")
    await canary.send()
    assert canary.problem is not None
    assert "instead of 0.550" in canary.problem
    assert _problems(service, canary) == {"canary": canary.problem}
    assert _canaries("drift") == before + 1


async def test_a_canary_whose_feature_is_another_one_is_noticed(
    start_service: StartService, demo_encoder: UnitEncoder
) -> None:
    """Mirrored features have the same scores, and another direction."""
    mirrored = copy.copy(demo_encoder)
    sign = 1

    def units(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        return sign * demo_encoder.units(z, sigma, layout)

    mirrored.units = units  # type: ignore[method-assign]
    canary = _canary(await start_service(encoder=mirrored))
    await canary.send()
    assert canary.problem is None
    sign = -1
    await canary.send()
    assert canary.problem is not None
    assert "cosine" in canary.problem
    sign = 1
    await canary.send()
    assert canary.problem is None


async def test_an_encoder_that_scarcely_stands_the_noise_passes(
    start_service: StartService, demo_encoder: UnitEncoder
) -> None:
    """Its certificates say how little they say. Its directions vary more from one canary to the next."""
    weak = _calibrated(demo_encoder, {}, {})
    gen = torch.Generator().manual_seed(0)

    def units(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        features = demo_encoder.units(z, sigma, layout)
        return F.normalize(features + 3 * F.normalize(torch.randn(features.shape, generator=gen)))

    weak.units = units  # type: ignore[method-assign]
    canary = _canary(await start_service(encoder=weak))
    for _ in range(3):
        await canary.send()
        assert canary.problem is None


async def test_a_canary_that_the_engine_does_not_answer_is_noticed(service: Service, vllm: FakeVllm) -> None:
    canary = _canary(service)
    before = _canaries("failed")
    vllm.fault = "failure"
    await canary.send()
    assert _problems(service, canary) == {"canary": "The engine failed with status 500."}
    assert _canaries("failed") == before + 1
    vllm.fault = ""
    await canary.send()
    assert _problems(service, canary) == {}


async def test_canaries_wait_until_all_parts_are_up(
    service: Service, engine: WatchedEngine, vllm: FakeVllm
) -> None:
    engine.up = lambda: False
    canary = _canary(service)
    running = asyncio.create_task(canary.run())
    await asyncio.sleep(0.3)
    assert canary.problem == "not sent yet"
    engine.up = lambda: True
    await eventually(lambda: canary.problem is None, 30)
    assert len(vllm.bodies) == 1
    running.cancel()


async def test_a_canary_passes_where_the_engine_that_others_share_does_not_answer(
    service: Service, engine: WatchedEngine, vllm: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WatchedEngine, "shared", True)
    canary = _canary(service)
    before = _canaries("engine"), _canaries("ok")
    vllm.fault = "failure"
    await canary.send()
    assert (_canaries("engine"), _canaries("ok")) == (before[0] + 1, before[1] + 1)
    assert canary.problem is None
    vllm.bodies.clear()
    engine.up = lambda: False
    await canary.send()
    assert canary.problem is None
    assert not vllm.bodies
