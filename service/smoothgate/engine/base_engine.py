"""What all engines have in common: a client, a status, and a listener for its changes."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from smoothgate.engine.engine_client import EngineClient
from smoothgate.engine.status import EngineState, EngineStatus

OnChange = Callable[[EngineStatus], None]


class Engine(ABC):
    """A vLLM that the service uses.

    Attributes:
        client: sends requests to it. It refuses them while the engine is not ready.

    Args:
        on_change: called with the new status at every change of state.
    """

    client: EngineClient

    def __init__(self, on_change: OnChange) -> None:
        self._status = EngineStatus(EngineState.STOPPED, time.monotonic())
        self._accepts_requests = False
        self._on_change = on_change

    @property
    def status(self) -> EngineStatus:
        """The present status."""
        return self._status

    def accepts_requests(self) -> bool:
        """Whether `client` sends requests. An engine that stops finishes its requests and accepts no more."""
        return self._accepts_requests

    @abstractmethod
    async def start(self) -> None:
        """Begin to run or to watch vLLM. Returns at once; `status` tells when vLLM is ready."""

    @abstractmethod
    async def stop(self) -> None:
        """End what `start` began."""

    def _enter(self, state: EngineState, **changes: Any) -> None:
        """Enter a state, with these changes to other fields of the status."""
        self._status = replace(self._status, state=state, since=time.monotonic(), **changes)
        self._accepts_requests = state is EngineState.READY
        self._on_change(self._status)
