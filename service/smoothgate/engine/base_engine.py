"""What all engines have in common: a client, a status, and a listener for its changes."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

from smoothgate.engine.engine_client import EngineClient
from smoothgate.engine.media_check import MediaCheck
from smoothgate.engine.status import EngineState, EngineStatus
from smoothgate.errors import SmoothgateError
from smoothgate.logs import get_logger

log = get_logger("engine")

OnChange = Callable[[EngineStatus], None]


class Engine(ABC):
    """A vLLM that the service uses.

    Attributes:
        client: sends requests to it. It refuses them while the engine is not ready.
        shared: whether other gates have the same vLLM.
        on_this_machine: whether vLLM uses the cores and devices that the gate uses.

    Args:
        check: what vLLM must pass before it gets a request, and whenever `check` is called; None: nothing.
        on_change: called with the new status at every change of state.
    """

    client: EngineClient
    shared: ClassVar[bool] = False
    on_this_machine: ClassVar[bool] = False

    def __init__(self, on_change: OnChange, check: MediaCheck | None = None) -> None:
        self._status = EngineStatus(EngineState.NEW, time.monotonic())
        self._accepts_requests = False
        self._first_start_over = asyncio.Event()
        self._on_change = on_change
        self._check = check

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

    async def settled(self) -> None:
        """Wait until vLLM was ready for the first time, or its first start failed."""
        await self._first_start_over.wait()

    @abstractmethod
    async def stop(self) -> None:
        """End what `start` began."""

    @property
    @abstractmethod
    def readiness_problem(self) -> str | None:
        """Why a gate with this engine should get no requests at all, or None."""

    def require_existing(self) -> None:  # noqa: B027
        """Refuse a chat where there is no vLLM by the operator's choice.

        Raises:
            NoLanguageModel: there is none.
        """

    async def check(self) -> None:
        """Check a vLLM that is ready again; it is not if it fails.

        Raises:
            SmoothgateError: it cannot be asked now.
        """
        if self._check is not None and (problem := await self._check.problem(self.client)):
            self._enter_unsafe(problem)

    async def _enter_ready(self) -> bool:
        """Enter the state `ready`, or `unsafe`. Returns False where vLLM cannot be asked now."""
        try:
            problem = await self._check.problem(self.client) if self._check else None
        except SmoothgateError as error:
            log.warning("engine not checked", reason=error.message)
            return False
        if problem is None:
            log.info("engine ready", seconds=round(self._status.elapsed, 1))
            self._enter(EngineState.READY, unsafe=None)
        else:
            self._enter_unsafe(problem)
        return True

    def _enter_unsafe(self, problem: str) -> None:
        if self._status.unsafe != problem:
            log.error("engine unsafe", reason=problem)
            self._enter(EngineState.UNSAFE, unsafe=problem)

    def _enter(self, state: EngineState, **changes: Any) -> None:
        """Enter a state, with these changes to other fields of the status."""
        self._status = replace(self._status, state=state, since=time.monotonic(), **changes)
        self._accepts_requests = state is EngineState.READY
        if state is not EngineState.STARTING:
            self._first_start_over.set()
        self._on_change(self._status)
