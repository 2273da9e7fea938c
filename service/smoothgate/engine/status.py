"""Where an engine is in its life, as health, metrics and progress see it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum


class EngineState(StrEnum):
    """Where the engine is in its life."""

    STARTING = "starting"
    READY = "ready"
    BACKOFF = "backoff"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """A snapshot for health, metrics and progress.

    `since` is the time of `time.monotonic` at which `state` began; `restarts` counts starts after the first;
    `last_exit` says how the last run ended.
    """

    state: EngineState
    since: float
    restarts: int = 0
    last_exit: str | None = None

    @property
    def elapsed(self) -> float:
        """Seconds in this state."""
        return time.monotonic() - self.since
