"""Limits of accounts across replicas: each tells the others, once a second, what its clients have taken.

No request waits for this. What replicas let through in the second before they hear of each other is counted
all the same: it is missing afterwards. While the storage is away, each replica counts for itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from smoothgate import metrics
from smoothgate.errors import SmoothgateError
from smoothgate.extras import MissingExtra
from smoothgate.gate.rate_limit import Bucket
from smoothgate.logs import get_logger

_PERIOD_SECONDS = 1.0
_PATIENCE_SECONDS = 5.0
_MINUTE = 60
# Counters are of one minute. They are read a little longer: for the rest of it, and by clocks that go slow.
_KEPT_SECONDS = 3 * _MINUTE

log = get_logger("limits")


class Counters(Protocol):
    """Counters that replicas share, as the storages of the library `limits` are."""

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Add, and return the sum."""

    async def get(self, key: str) -> int:
        """The sum; 0 where there is none."""


@dataclass(slots=True)
class _Shared:
    bucket: Bucket
    told: int = 0
    busy: float = float("-inf")
    minute: int | None = None
    seen: int = 0


class FleetLimits:
    """Keeps buckets of several replicas in step.

    Args:
        counters: shared by all replicas.
        clock: seconds since the epoch, the same at all replicas up to some seconds.
        close: closes what was opened for the counters.
    """

    def __init__(
        self,
        counters: Counters,
        clock: Callable[[], float] = time.time,
        close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._counters = counters
        self._clock = clock
        self._close = close
        self._shared: dict[str, _Shared] = {}
        self._failing = False

    def share(self, name: str, bucket: Bucket) -> None:
        """Keep this bucket in step with those of the same name, in place of an earlier one."""
        self._shared[name] = _Shared(bucket)

    async def run(self) -> None:
        """Exchange until cancelled."""
        try:
            while True:
                await asyncio.sleep(_PERIOD_SECONDS)
                await self.exchange()
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Close what was opened for the counters."""
        if self._close is not None:
            await self._close()

    async def exchange(self) -> None:
        """Tell what was taken here, and count what was taken elsewhere. A failure is logged and counted."""
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                exchanges = (self._exchange(name, each) for name, each in self._shared.items())
                for failed in await asyncio.gather(*exchanges, return_exceptions=True):
                    if failed is not None:
                        raise failed
        except Exception as error:
            metrics.LIMITS_FAILURES.inc()
            if not self._failing:
                log.warning("limits hold for this replica alone", reason=str(error) or type(error).__name__)
            self._failing = True
        else:
            if self._failing:
                log.info("limits hold for all replicas again")
            self._failing = False

    async def _exchange(self, name: str, shared: _Shared) -> None:
        now = self._clock()
        minute = int(now // _MINUTE)
        amount = shared.bucket.taken - shared.told
        if amount:
            shared.busy = now
        elif now - shared.busy > _MINUTE:
            # Nobody asked here for as long as a bucket takes to fill.
            shared.minute, shared.seen = None, 0
            return
        if shared.minute is not None and shared.minute != minute:
            shared.bucket.elsewhere(await self._counters.get(_key(name, shared.minute)) - shared.seen)
            shared.minute, shared.seen = minute, 0
        if amount:
            total = await self._counters.incr(_key(name, minute), _KEPT_SECONDS, amount)
            shared.told += amount
        else:
            total = await self._counters.get(_key(name, minute))
        # Of an account that is new here, all that others took in this minute counts: nobody knows when.
        shared.bucket.elsewhere(total - shared.seen - amount)
        shared.minute, shared.seen = minute, total


def _key(name: str, minute: int) -> str:
    return f"smoothgate/{name}/{minute}"


def redis_limits(url: str) -> FleetLimits:
    """Limits whose counters are in a Redis.

    Args:
        url: `redis://:PASSWORD@HOST:PORT/DB`, or `rediss://` for TLS.

    Raises:
        SmoothgateError: the extra `fleet` is missing, or this is no such URL.
    """
    try:
        from limits.aio.storage import RedisStorage
        from redis.asyncio import ConnectionPool
        from redis.driver_info import DriverInfo
    except ImportError as error:
        raise MissingExtra("fleet", "SMOOTHGATE_LIMITS_URL") from error
    try:
        # Else every new connection would look up the version of its library on the disk.
        pool = ConnectionPool.from_url(url, socket_timeout=_PATIENCE_SECONDS, driver_info=DriverInfo())
    except ValueError as error:
        # The URL may hold a password.
        raise SmoothgateError(
            "SMOOTHGATE_LIMITS_URL is no URL of a Redis: redis://HOST:PORT/DB.", code="bad_limits_url"
        ) from error
    # Named in the library's documentation, not in its types.
    options: dict[str, Any] = {"connection_pool": pool}
    storage = RedisStorage(f"async+{url}", implementation="redispy", **options)
    return FleetLimits(storage, close=pool.disconnect)
