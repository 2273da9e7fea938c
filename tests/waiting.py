"""Waiting for conditions that have no event to wait for."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any

from smoothgate.engine import Engine, EngineState


async def eventually(condition: Callable[[], bool | Awaitable[bool]], within: float = 30.0) -> None:
    """Return as soon as the condition holds. Raises TimeoutError if it does not within so many seconds."""
    async with asyncio.timeout(within):
        while True:
            holds = condition()
            if await holds if inspect.isawaitable(holds) else holds:
                return
            await asyncio.sleep(0.01)


async def until_ready(engine: Engine, within: float = 300.0) -> None:
    """Return as soon as the engine is ready."""
    await eventually(lambda: engine.status.state is EngineState.READY, within)


def wait_until(condition: Callable[[], Any], seconds: float, told: Callable[[], object]) -> Any:
    """What the condition returns as soon as that is true. An error says `told` if it never is."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, told()
        time.sleep(0.2)
    return found
