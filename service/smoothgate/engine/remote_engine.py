"""A vLLM that runs elsewhere: watched, but neither started nor stopped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

import structlog

from smoothgate.engine.engine_client import EngineClient
from smoothgate.engine.status import EngineState, EngineStatus

log = structlog.get_logger("engine")


class RemoteEngine:
    """An existing vLLM deployment or router behind a URL.

    It must have been started with `--enable-mm-embeds` and an image limit of 0.

    Args:
        url: its base URL, without `/v1`.
        api_key: sent as a bearer token.
        read_timeout: see `EngineClient`.
        health_interval, health_timeout: how often it is asked for its health, and how long it may take to
            answer before it counts as lost; in seconds.
        on_change: called with the new status at every change of state.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        read_timeout: float = 60.0,
        health_interval: float = 5.0,
        health_timeout: float = 10.0,
        on_change: Callable[[EngineStatus], None] = lambda status: None,
    ) -> None:
        self._health_interval = health_interval
        self._health_timeout = health_timeout
        self._on_change = on_change
        self._status = EngineStatus(EngineState.STOPPED, time.monotonic())
        self._ready = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None
        self.client = EngineClient(url, api_key=api_key, read_timeout=read_timeout, ready=self._ready.is_set)

    @property
    def status(self) -> EngineStatus:
        """The state as it is now; `starting` until it first answers, `backoff` while it does not any more."""
        return self._status

    async def start(self) -> None:
        """Begin to watch. Returns at once; `wait_ready` waits until it answers."""
        self._enter(EngineState.STARTING)
        self._watcher = asyncio.create_task(self._watch())

    async def wait_ready(self) -> None:
        """Wait until it answers."""
        await self._ready.wait()

    async def stop(self) -> None:
        """Stop watching and close the connections."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
        self._enter(EngineState.STOPPED)
        await self.client.aclose()

    async def _watch(self) -> None:
        while True:
            healthy = await self.client.health(self._health_timeout)
            if healthy and not self._ready.is_set():
                log.info("engine ready", seconds=round(self._status.elapsed, 1))
                self._enter(EngineState.READY)
            elif not healthy and self._ready.is_set():
                log.error("engine lost", reason="no good answer from its health route")
                self._enter(EngineState.BACKOFF)
            await asyncio.sleep(self._health_interval)

    def _enter(self, state: EngineState) -> None:
        self._status = replace(self._status, state=state, since=time.monotonic())
        if state is EngineState.READY:
            self._ready.set()
        else:
            self._ready.clear()
        self._on_change(self._status)
