"""When the sampler is measured and started, and what is said until then."""

import asyncio
import threading

import pytest
import torch

from smoothgate.errors import NotReady, SmoothgateError
from smoothgate.gate.build import build
from smoothgate.gate.supervised_smoother import SupervisedSmoother
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.sampling.noise_seeds import NoiseSeeds
from smoothgate.sampling.sampler import Sampler, Worker
from smoothgate.sampling.smoother import Smoother
from smoothgate.settings import Settings
from smoothgate.vision import Canvas
from tests.gate.conftest import WatchedEngine
from tests.quick_gate import SETTINGS
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio


async def test_devices_that_vllm_shares_are_measured_after_it_has_started(
    engine: WatchedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a vLLM that loads, they look slow, and requests would be refused for a wait that never comes."""
    monkeypatch.setattr(WatchedEngine, "on_this_machine", True)
    service = build(Settings(_env_file=None, batch_size=16, **SETTINGS), engine=engine)
    await service.start()
    try:
        assert service.smoother.problems() == {"sampler": "not measured yet"}
        assert service.smoother.beyond_repair() == {}
        with pytest.raises(NotReady, match="sampler not measured yet"):
            service.readiness.require_smoother()
        await asyncio.sleep(0.3)
        assert service.smoother.problems() == {"sampler": "not measured yet"}
        engine._first_start_over.set()
        await eventually(lambda: not service.smoother.problems())
        assert service.readiness.require_smoother().sampler.batch_size == 16
    finally:
        await service.stop()


async def test_devices_that_vllm_does_not_share_are_measured_at_once(engine: WatchedEngine) -> None:
    service = build(Settings(_env_file=None, batch_size=16, **SETTINGS), engine=engine)
    await service.start()
    try:
        await eventually(lambda: not service.smoother.problems())
    finally:
        await service.stop()


async def test_a_sampler_that_cannot_be_set_up_later_takes_a_new_process(demo_encoder: UnitEncoder) -> None:
    def no_memory() -> Sampler:
        raise SmoothgateError("There is no room.", code="no_memory")

    async def quiet() -> None:
        pass

    smoother = SupervisedSmoother(
        lambda: Smoother(demo_encoder, None, "demo", seeds=NoiseSeeds.generate()), no_memory, quiet
    )
    await smoother.start()
    await eventually(lambda: smoother.problems() == {"sampler": "There is no room."})
    assert smoother.beyond_repair() == {"sampler": "There is no room."}
    await smoother.stop()


async def test_a_gate_is_not_ready_before_its_sampler_is_warm(demo_encoder: UnitEncoder) -> None:
    going = threading.Event()

    def compiling(z: torch.Tensor, sigma: torch.Tensor, layout: tuple[int, ...] = ()) -> torch.Tensor:
        assert going.wait(30)
        return demo_encoder.units(z, sigma, layout)

    assert demo_encoder.adapter.canvas_shape is not None
    typical = Canvas(torch.zeros(demo_encoder.adapter.canvas_shape), 1.0)
    sampler = Sampler([Worker(compiling, torch.device("cpu"))], 4, typical=typical)
    smoother = SupervisedSmoother(
        lambda: Smoother(demo_encoder, sampler, "demo", seeds=NoiseSeeds.generate())
    )
    await smoother.start()
    assert smoother.problems() == {"sampler": "warming up"}
    going.set()
    await eventually(lambda: not smoother.problems())
    await smoother.stop()
