"""A vLLM that runs elsewhere. The service watches it, but neither starts nor stops it."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from smoothgate.engine.base_engine import Engine, OnChange
from smoothgate.engine.engine_client import KEEPALIVE_SECONDS, EngineClient
from smoothgate.engine.media_check import MediaCheck
from smoothgate.engine.status import EngineState
from smoothgate.logs import get_logger

log = get_logger("engine")


class RemoteEngine(Engine):
    """An existing vLLM deployment or router behind a URL.

    It must run with `--enable-mm-embeds` and an image limit of 0. Its status is `starting` until it first
    answers, and `backoff` when it no longer does.

    Args:
        url: its base URL, without `/v1`.
        check: what it must pass before it gets a request.
        api_key: sent as a bearer token.
        read_timeout, keepalive: see `EngineClient`.
        health_interval: seconds between two questions for its health.
        health_timeout: seconds without an answer after which it counts as lost.
        on_change: see `Engine`.
    """

    shared: ClassVar[bool] = True

    def __init__(
        self,
        url: str,
        check: MediaCheck | None,
        *,
        api_key: str | None = None,
        read_timeout: float = 60.0,
        keepalive: float = KEEPALIVE_SECONDS,
        health_interval: float = 5.0,
        health_timeout: float = 10.0,
        on_change: OnChange = lambda status: None,
    ) -> None:
        super().__init__(on_change, check)
        self._health_interval = health_interval
        self._health_timeout = health_timeout
        self._watcher: asyncio.Task[None] | None = None
        self._was_ready = False
        self.client = EngineClient(
            url,
            api_key=api_key,
            read_timeout=read_timeout,
            keepalive=keepalive,
            ready=self.accepts_requests,
        )

    @property
    def readiness_problem(self) -> str | None:
        """What is wrong before it was ready for the first time, or where it is unsafe.

        Other gates have the same engine: without it, none of them answers chats, and all of them certify.
        """
        if self._status.state is EngineState.UNSAFE:
            return self._status.unsafe
        return None if self._was_ready else self._status.state.value

    async def start(self) -> None:
        """Begin to watch the deployment. Returns at once."""
        self._enter(EngineState.STARTING)
        self._watcher = asyncio.create_task(self._watch())

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
            if healthy and not self.accepts_requests():
                await self._enter_ready()
                self._was_ready = self._was_ready or self.accepts_requests()
            elif not healthy and self.accepts_requests():
                log.error("engine lost", reason="its health route gives no good answer")
                self._enter(EngineState.BACKOFF)
            await asyncio.sleep(self._health_interval)
