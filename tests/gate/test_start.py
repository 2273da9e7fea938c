"""The start of a service whose default budget could certify nothing."""

import asyncio
from typing import Any

import pytest

from smoothgate.errors import Unacceptable
from smoothgate.gate.build import build
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.settings import Settings
from tests.fake_vllm import FakeVllm
from tests.quick_gate import SETTINGS, quick_smoother


def _start_and_stop(encoder: UnitEncoder, vllm: FakeVllm, **fields: Any) -> None:
    settings = Settings(_env_file=None, **SETTINGS | {"engine_url": vllm.url} | fields)
    service = build(settings, load_smoother=quick_smoother(encoder, settings))

    async def run() -> None:
        await service.start()
        await service.stop()

    asyncio.run(run())


@pytest.mark.parametrize("certify", ["features", "answer"])
def test_a_default_budget_that_can_certify_nothing_ends_the_start(
    demo_encoder: UnitEncoder, vllm: FakeVllm, certify: str
) -> None:
    with pytest.raises(Unacceptable, match="4 samples cannot certify"):
        _start_and_stop(demo_encoder, vllm, certify=certify, n_certify=4)


def test_only_what_is_certified_by_default_must_be_in_reach(
    demo_encoder: UnitEncoder, vllm: FakeVllm
) -> None:
    """At a small sigma, features take more samples for the smallest radius than votes for any."""
    few: dict[str, Any] = {"n_certify": 32, "sigma": 0.05}
    with pytest.raises(Unacceptable, match="32 samples cannot certify"):
        _start_and_stop(demo_encoder, vllm, certify="features", **few)
    _start_and_stop(demo_encoder, vllm, certify="answer", **few)
    with pytest.raises(Unacceptable, match="32 samples cannot certify"):
        _start_and_stop(demo_encoder, vllm, certify="answer", engine="none", engine_url=None, **few)
