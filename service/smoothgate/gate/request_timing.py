"""The time of a request: its deadline, its stages, and how it is counted in the metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from smoothgate import metrics
from smoothgate.errors import RequestTimedOut, SmoothgateError


@dataclass(slots=True)
class Stages:
    """When the stages of a request ended, in seconds from its start; `engine` is the time that vLLM took."""

    started: float = field(default_factory=time.perf_counter)
    decode: float = 0.0
    select: float = 0.0
    certify: float = 0.0
    engine: float = 0.0

    def now(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.started


@contextmanager
def measured(route: str, ended: Callable[[str], None] = lambda outcome: None) -> Iterator[None]:
    """Count the time of a request by how it ends: `ok`, the code of an error, or `cancelled`.

    Args:
        route: its name in the metrics.
        ended: called with the outcome.
    """
    started = time.perf_counter()
    outcome = "ok"
    try:
        yield
    except SmoothgateError as error:
        outcome = error.code
        raise
    except (asyncio.CancelledError, GeneratorExit):
        outcome = "cancelled"
        raise
    except BaseException:
        outcome = "internal_error"
        raise
    finally:
        metrics.REQUEST_SECONDS.labels(route, outcome).observe(time.perf_counter() - started)
        ended(outcome)


@asynccontextmanager
async def deadline(seconds: float, *, spent: float = 0.0) -> AsyncIterator[None]:
    """End what takes longer than `seconds`, of which some are spent already.

    Raises:
        RequestTimedOut: the block took longer than `seconds`.
    """
    try:
        async with asyncio.timeout(seconds - spent):
            yield
    except TimeoutError as error:
        raise RequestTimedOut(f"The request took longer than {seconds:g} seconds.") from error
