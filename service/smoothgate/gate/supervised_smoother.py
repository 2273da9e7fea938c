"""Encoder and sampler: loaded at the start, watched, and ended with the service."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from smoothgate import metrics
from smoothgate.errors import SmoothgateError
from smoothgate.logs import get_logger
from smoothgate.off_loop import off_loop
from smoothgate.sampling.sampler import Sampler
from smoothgate.sampling.smoother import Smoother

_WATCH_SECONDS = 1.0
# A batch takes well under a second: after this long without one, something hangs.
_STALL_SECONDS = 30.0
# A thread cannot be ended from outside. After this long, only a new process helps.
_HUNG_SECONDS = 180.0

log = get_logger("smoother")


class SupervisedSmoother:
    """A smoother whose sampler is started again when one of its threads dies.

    Args:
        load: makes it; takes seconds to minutes, so it runs in a thread.
        make_sampler: measures the devices and makes the sampler, in a thread too; None: `load` has made it.
        quiet: waits until nothing else starts on the devices. The sampler is then made in the background, so
            that the start does not wait; None: it is made at once.
    """

    def __init__(
        self,
        load: Callable[[], Smoother],
        make_sampler: Callable[[], Sampler] | None = None,
        quiet: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._load = load
        self._make_sampler = make_sampler
        self._quiet = quiet
        self._smoother: Smoother | None = None
        self._sampler: Sampler | None = None
        self._failure: str | None = None
        self._running: asyncio.Task[None] | None = None

    @property
    def loaded(self) -> Smoother:
        """The smoother, after `start`."""
        assert self._smoother is not None  # noqa: S101
        return self._smoother

    def problems(self) -> dict[str, str]:
        """The state of each part that is not up: `encoder`, `sampler`."""
        if self._smoother is None:
            return {"encoder": "loading"}
        if self._failure is not None:
            return {"sampler": self._failure}
        if self._sampler is None:
            return {"sampler": "not measured yet"}
        if self._sampler.device_lost:
            return {"sampler": "device lost"}
        if not self._sampler.alive:
            return {"sampler": "down"}
        if not self._sampler.warm:
            return {"sampler": "warming up"}
        return {"sampler": "stalled"} if self._sampler.stalled_seconds > _STALL_SECONDS else {}

    def beyond_repair(self) -> dict[str, str]:
        """The state of the sampler where only a new process can help: it cannot be set up, it hangs, or its
        device is lost.
        """
        if self._failure is not None:
            return {"sampler": self._failure}
        if self._sampler is None:
            return {}
        if self._sampler.device_lost:
            return {"sampler": "device lost"}
        return {"sampler": "hangs"} if self._sampler.stalled_seconds > _HUNG_SECONDS else {}

    async def start(self) -> None:
        """Load the encoder and start the sampler, or have it started once the devices are quiet.

        Raises:
            SmoothgateError: the model and its calibration cannot be used.
        """
        self._smoother = await off_loop(self._load)
        if self._quiet is None:
            await self._set_up(self._smoother)
            self._running = asyncio.create_task(self._keep_alive())
        else:
            self._running = asyncio.create_task(self._set_up_later(self._smoother, self._quiet))

    async def stop(self) -> None:
        """End the sampler; requests that still wait for it fail with NotReady."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])
        if self._sampler is not None:
            await off_loop(self._sampler.close)

    async def _set_up(self, smoother: Smoother) -> None:
        if self._make_sampler is not None:
            smoother.use(await off_loop(self._make_sampler))
        self._sampler = sampler = smoother.sampler
        sampler.start()
        metrics.SAMPLER_UP.set_function(lambda: float(sampler.alive))
        metrics.QUEUED_SAMPLES.set_function(lambda: float(sampler.queued_samples))
        metrics.QUEUED_WORK.set_function(lambda: sampler.queued_work)
        metrics.QUEUED_SECONDS.set_function(lambda: sampler.queued_seconds)

    async def _set_up_later(self, smoother: Smoother, quiet: Callable[[], Awaitable[None]]) -> None:
        try:
            await quiet()
            await self._set_up(smoother)
        except Exception as error:
            log.exception("the sampler could not be set up")
            self._failure = error.message if isinstance(error, SmoothgateError) else "could not be set up"
            return
        await self._keep_alive()

    async def _keep_alive(self) -> None:
        assert self._sampler is not None  # noqa: S101
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            if not self._sampler.alive:
                log.error("starting the sampler again")
                self._sampler.start()
