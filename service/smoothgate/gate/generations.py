"""The generations of all votes: how many are at vLLM at a time, how many wait, how fast they are answered.

A request to vLLM may hold many prompts, and each of them is a generation. Requests of features that are asked
about meanwhile wait behind no more of them than the limit.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from smoothgate import metrics

# An answer counts half in the measured speed once so many have come after it.
_HALF = 256


class Generations:
    """Counts generations. Used on the event loop alone.

    Args:
        at_most: generations at vLLM at a time.
    """

    def __init__(self, at_most: int) -> None:
        self.at_most = at_most
        self._room = asyncio.Semaphore(at_most)
        self._turn = asyncio.Lock()
        self._planned = self._under_way = 0
        self._answered = self._seconds = 0.0
        self._since = 0.0

    @property
    def queued_work(self) -> float:
        """Generations that votes may still need."""
        return self._planned

    @property
    def work_per_second(self) -> float:
        """Answers per second of late, while there was something to answer; infinite before the first."""
        return self._answered / self._seconds if self._seconds else math.inf

    @contextmanager
    def planned(self, generations: int) -> Iterator[Callable[[int], None]]:
        """Count what a vote may need.

        Yields:
            What counts those that are done.
        """
        left = 0

        def change(by: int) -> None:
            nonlocal left
            left += by
            self._planned += by
            metrics.QUEUED_GENERATIONS.set(self._planned)

        change(generations)
        try:
            yield lambda done: change(-done)
        finally:
            change(-left)

    @asynccontextmanager
    async def under_way(self, generations: int) -> AsyncIterator[None]:
        """Room for the generations of one request, at most `at_most`. Who came first gets it first."""
        async with self._turn:
            taken = 0
            try:
                while taken < generations:
                    await self._room.acquire()
                    taken += 1
            except asyncio.CancelledError:
                self._release(taken)
                raise
        self._change(generations)
        try:
            yield
            kept = 0.5 ** (generations / _HALF)
            self._answered = kept * self._answered + generations
            self._seconds *= kept
        finally:
            self._change(-generations)
            self._release(generations)

    def _change(self, by: int) -> None:
        now = time.monotonic()
        if self._under_way:
            self._seconds += now - self._since
        self._since = now
        self._under_way += by
        metrics.GENERATIONS_IN_FLIGHT.set(self._under_way)

    def _release(self, generations: int) -> None:
        for _ in range(generations):
            self._room.release()
