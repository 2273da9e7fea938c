"""A limit per minute as a token bucket."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]


class Bucket:
    """A bucket that holds one minute's worth and fills evenly.

    Args:
        per_minute: capacity.
        clock: seconds, monotonic.

    Attributes:
        taken: what was taken here since the beginning, less what was given back.
    """

    def __init__(self, per_minute: int, clock: Clock = time.monotonic) -> None:
        self._per_minute = per_minute
        self.taken = 0
        self._clock = clock
        self._level = float(per_minute)
        self._since = clock()

    def take(self, amount: int) -> float:
        """Take `amount` and return 0, or take nothing and return the seconds until there is enough.

        A full bucket gives any amount, and then stays empty for as long as that amount takes to fill in.
        """
        self._fill()
        needed = min(amount, self._per_minute)
        if self._level < needed:
            return (needed - self._level) * 60 / self._per_minute
        self._level -= amount
        self.taken += amount
        return 0.0

    def correct(self, amount: int) -> None:
        """Take `amount` more than was taken before, or give back where it is negative; it may be in debt."""
        self._fill()
        self._level -= amount
        self.taken += amount

    def elsewhere(self, amount: int) -> None:
        """Count what was taken at another replica, or given back where it is negative."""
        self._fill()
        self._level -= amount

    def _fill(self) -> None:
        now = self._clock()
        self._level = min(self._per_minute, self._level + (now - self._since) * self._per_minute / 60)
        self._since = now
