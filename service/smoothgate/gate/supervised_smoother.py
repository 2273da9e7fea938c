"""Encoder and sampler: loaded at the start, watched, and ended with the service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from smoothgate import metrics
from smoothgate.sampling.sampler import Sampler
from smoothgate.sampling.smoother import Smoother

_WATCH_SECONDS = 1.0
# A batch takes well under a second: after this long without one, something hangs.
_STALL_SECONDS = 30.0
# A thread cannot be ended from outside. After this long, only a new process helps.
_HUNG_SECONDS = 180.0

log = structlog.get_logger("smoother")


class SupervisedSmoother:
    """A smoother whose sampler is started again when one of its threads dies.

    Args:
        load: makes it; takes seconds to minutes, so it runs in a thread.
    """

    def __init__(self, load: Callable[[], Smoother]) -> None:
        self._load = load
        self._smoother: Smoother | None = None
        self._watching: asyncio.Task[None] | None = None

    @property
    def loaded(self) -> Smoother:
        """The smoother, after `start`."""
        assert self._smoother is not None  # noqa: S101
        return self._smoother

    def problems(self) -> dict[str, str]:
        """The state of each part that is not up: `encoder`, `sampler`."""
        if self._smoother is None:
            return {"encoder": "loading"}
        sampler = self._smoother.sampler
        if sampler.device_lost:
            return {"sampler": "device lost"}
        if not sampler.alive:
            return {"sampler": "down"}
        return {"sampler": "stalled"} if sampler.stalled_seconds > _STALL_SECONDS else {}

    def beyond_repair(self) -> dict[str, str]:
        """The state of the sampler where only a new process can help: its device is lost, or it hangs."""
        if self._smoother is None:
            return {}
        if self._smoother.sampler.device_lost:
            return {"sampler": "device lost"}
        return {"sampler": "hangs"} if self._smoother.sampler.stalled_seconds > _HUNG_SECONDS else {}

    async def start(self) -> None:
        """Load the encoder and start the sampler.

        Raises:
            SmoothgateError: the model and its calibration cannot be used.
        """
        self._smoother = await asyncio.to_thread(self._load)
        sampler = self._smoother.sampler
        sampler.start()
        metrics.SAMPLER_UP.set_function(lambda: float(sampler.alive))
        metrics.QUEUED_SAMPLES.set_function(lambda: float(sampler.queued_samples))
        metrics.QUEUED_WORK.set_function(lambda: sampler.queued_work)
        metrics.QUEUED_SECONDS.set_function(lambda: sampler.queued_seconds)
        self._watching = asyncio.create_task(_keep_alive(sampler))

    async def stop(self) -> None:
        """End the sampler; requests that still wait for it fail with NotReady."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        if self._smoother is not None:
            await asyncio.to_thread(self._smoother.sampler.close)


async def _keep_alive(sampler: Sampler) -> None:
    while True:
        await asyncio.sleep(_WATCH_SECONDS)
        if not sampler.alive:
            log.error("starting the sampler again")
            sampler.start()
