"""A service without HTTP, in the loop of the test, in front of a fake vLLM that the test declares lost."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any, Protocol

import pytest
import pytest_asyncio

from smoothgate.engine import Engine, EngineClient, EngineState, EngineStatus
from smoothgate.gate.build import build
from smoothgate.gate.service import Service
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.settings import Settings
from tests.fake_vllm import FakeVllm
from tests.quick_gate import SETTINGS, quick_smoother


class WatchedEngine(Engine):
    """The fake vLLM as an engine that the test declares lost: `up` is asked at every look at it."""

    def __init__(self, url: str) -> None:
        super().__init__(lambda status: None)
        self.up: Callable[[], bool] = lambda: True
        self.client = EngineClient(url, ready=lambda: self.up())
        self.stopped = False

    @property
    def status(self) -> EngineStatus:
        return EngineStatus(EngineState.READY if self.up() else EngineState.BACKOFF, 0.0)

    @property
    def readiness_problem(self) -> str | None:
        return None if self.up() else "backoff"

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        self.stopped = True
        await self.client.aclose()


class StartService(Protocol):
    """Starts a service without HTTP in the loop of the test; it is stopped after the test."""

    async def __call__(self, *, encoder: UnitEncoder | None = None, **settings: Any) -> Service: ...


@pytest.fixture
def engine(vllm: FakeVllm) -> WatchedEngine:
    """The engine of the services that `start_service` starts."""
    return WatchedEngine(vllm.url)


@pytest_asyncio.fixture
async def start_service(demo_encoder: UnitEncoder, engine: WatchedEngine) -> AsyncIterator[StartService]:
    async with AsyncExitStack() as stack:

        async def start(*, encoder: UnitEncoder | None = None, **settings: Any) -> Service:
            chosen = Settings(_env_file=None, **SETTINGS | settings)
            load_smoother = quick_smoother(encoder or demo_encoder, chosen)
            service = build(chosen, engine=engine, load_smoother=load_smoother)
            await service.start()
            stack.push_async_callback(service.stop)
            return service

        yield start


@pytest_asyncio.fixture
async def service(start_service: StartService) -> Service:
    """A service with the settings above."""
    return await start_service()
