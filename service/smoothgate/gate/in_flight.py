"""The requests that are being answered: how many there may be, and how they end when the service does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from smoothgate import metrics
from smoothgate.errors import NotReady, Overloaded
from smoothgate.logs import get_logger

_DRAIN_RETRY_SECONDS = 5.0
_CUT_OFF_SECONDS = 5.0

log = get_logger("request")


class InFlight:
    """The tasks that answer requests, probes left out.

    Args:
        most: requests that may be under way at the same time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._tasks: set[asyncio.Task[Any]] = set()
        #: The service is shutting down: it takes no new requests.
        self.draining = False
        #: The time for requests under way is over: `end` cancels their tasks.
        self.cut_off = False

    @property
    def count(self) -> int:
        """Number of requests under way."""
        return len(self._tasks)

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Count the current task as one that answers a request."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        self._tasks.add(task)
        metrics.IN_FLIGHT.set(self.count)
        try:
            yield
        finally:
            self._tasks.discard(task)
            metrics.IN_FLIGHT.set(self.count)

    def require_room(self) -> None:
        """Refuse the request of the current task, which is counted already, where there is no room for it.

        Raises:
            NotReady: code `draining`: the service is shutting down.
            Overloaded: code `too_many_requests`.
        """
        if self.draining:
            raise NotReady("The service is shutting down.", code="draining", retry_after=_DRAIN_RETRY_SECONDS)
        if self.count > self._most:
            raise Overloaded(
                f"More than {self._most} requests are under way.", code="too_many_requests", retry_after=1
            )

    async def end(self, within: float) -> None:
        """Wait until no request is left; cancel those that take longer than `within` seconds."""
        if self._tasks:
            await asyncio.wait({*self._tasks}, timeout=within)
        self.cut_off = True
        late = {*self._tasks}
        for task in late:
            task.cancel()
        if late:
            log.warning("requests cut off", count=len(late))
            await asyncio.wait(late, timeout=_CUT_OFF_SECONDS)
