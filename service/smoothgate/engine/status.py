"""The state of an engine, as health, metrics and progress show it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum


class EngineState(StrEnum):
    """The phase of an engine's life. `UNSAFE`: vLLM answers, and is not as it must be."""

    NEW = "not started yet"
    STARTING = "starting"
    READY = "ready"
    BACKOFF = "backoff"
    UNSAFE = "unsafe"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """A snapshot of an engine.

    Attributes:
        state: the present state.
        since: the time of `time.monotonic` at which `state` began.
        restarts: number of starts after the first.
        last_exit: how the last run ended, or None.
        unsafe: what is wrong with a vLLM that answers, or None.
    """

    state: EngineState
    since: float
    restarts: int = 0
    last_exit: str | None = None
    unsafe: str | None = None

    @property
    def elapsed(self) -> float:
        """Seconds in this state."""
        return time.monotonic() - self.since
