"""vLLM as a supervised child: started, watched, restarted when it dies or hangs, stopped with the service."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from smoothgate.engine.base_engine import Engine, OnChange
from smoothgate.engine.engine_client import EngineClient
from smoothgate.engine.media_check import MediaCheck
from smoothgate.engine.status import EngineState
from smoothgate.engine.vllm_command import (
    CLIENT_KEEPALIVE_SECONDS,
    VLLMOptions,
    vllm_command,
    vllm_environment,
)
from smoothgate.engine.vllm_process import VLLMProcess
from smoothgate.errors import SmoothgateError
from smoothgate.logs import VLLM_LAST, get_logger

log = get_logger("engine")
last_lines = get_logger(VLLM_LAST)

POLL_SECONDS = 0.2
EXIT_SECONDS = 1.0
LONGEST_SOCKET_PATH = 100  # the kernel's limit is 108 bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervision:
    """When the child counts as failed, and how soon it starts again. All values are in seconds.

    Attributes:
        start_timeout: a child that is not ready after this time is killed.
        health_interval: time between two questions for the child's health.
        health_timeout: a child that does not answer within this time counts as hung and is killed.
        first_pause: pause before the first restart. It doubles with every failure in a row.
        longest_pause: longest pause before a restart.
        healthy_seconds: a run that was ready for longer than this ends the row of failures.
    """

    start_timeout: float = 600.0
    health_interval: float = 5.0
    health_timeout: float = 30.0
    first_pause: float = 1.0
    longest_pause: float = 60.0
    healthy_seconds: float = 60.0


class LocalEngine(Engine):
    """A vLLM child on a Unix socket that only this user can open.

    Args:
        options: how vLLM runs.
        supervision: how it is watched and restarted.
        check: what it must pass before it gets a request.
        read_timeout: see `EngineClient`.
        on_change: see `Engine`.

    Raises:
        ValueError: `options.extra_args` holds an argument that the service sets itself, or the path of the
            temporary folder is too long.
    """

    on_this_machine: ClassVar[bool] = True

    def __init__(
        self,
        options: VLLMOptions,
        supervision: Supervision | None = None,
        *,
        check: MediaCheck | None = None,
        read_timeout: float = 60.0,
        on_change: OnChange = lambda status: None,
    ) -> None:
        super().__init__(on_change, check)
        self._folder = Path(tempfile.gettempdir()) / f"smoothgate-{secrets.token_hex(8)}"
        self.socket = self._folder / "v.sock"
        if len(os.fsencode(self.socket)) > LONGEST_SOCKET_PATH:
            raise ValueError(f"TMPDIR is too long a path for a Unix socket: {tempfile.gettempdir()}")
        on_cpu = not torch.cuda.is_available()
        self._command = vllm_command(options, self.socket, on_cpu=on_cpu)
        self._environment = vllm_environment(options.model, self._folder, on_cpu=on_cpu)
        self._options = options
        self._supervision = supervision or Supervision()
        self._supervisor: asyncio.Task[None] | None = None
        self._process: VLLMProcess | None = None
        self.client = EngineClient(
            socket=self.socket,
            read_timeout=read_timeout,
            keepalive=CLIENT_KEEPALIVE_SECONDS,
            ready=self.accepts_requests,
        )

    @property
    def readiness_problem(self) -> str | None:
        """What is wrong: this engine is a part of its gate, and other gates have theirs."""
        status = self._status
        return None if status.state is EngineState.READY else status.unsafe or status.state.value

    async def start(self) -> None:
        """Begin to run and to supervise the child. Returns at once."""
        self._folder.mkdir(mode=0o700)  # fails if it exists, so nobody else can have prepared it
        self._supervisor = asyncio.create_task(self._supervise())

    async def stop(self) -> None:
        """Let requests in flight finish, end the child and remove its files.

        vLLM's own orderly shutdown takes 10 s even when it is idle. All requests go through `client`, which
        knows when none is in flight.
        """
        self._accepts_requests = False
        await self.client.drained(self._options.drain_seconds)
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait([self._supervisor])
        if self._process is not None:  # the supervisor was cancelled while it killed the child
            await self._process.kill()
        self._enter(EngineState.STOPPED)
        await self.client.aclose()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _supervise(self) -> None:
        supervision = self._supervision
        pause = supervision.first_pause
        restarts = 0
        while True:
            self._enter(EngineState.STARTING, restarts=restarts)
            try:
                exit_reason = await self._run_once()
            except Exception as error:  # a supervisor that has died would restart nothing
                log.exception("engine supervision failed")
                exit_reason = f"{type(error).__name__}: {error}"
            if self._status.state is EngineState.READY and self._status.elapsed > supervision.healthy_seconds:
                pause = supervision.first_pause
            self._enter(EngineState.BACKOFF, last_exit=exit_reason)
            log.error("engine lost", reason=exit_reason, restart_in_seconds=pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, supervision.longest_pause)
            restarts += 1

    async def _run_once(self) -> str:
        """Run the child from its start to its end. Returns how it ended."""
        self.client.chat_timed_out = False
        self.socket.unlink(missing_ok=True)  # vLLM does not start if a former run's socket exists
        spawning = asyncio.create_task(VLLMProcess.spawn(self._command, self._environment))
        try:
            self._process = process = await asyncio.shield(spawning)
        except asyncio.CancelledError:  # asyncio would kill only the guard, and its child would stay
            await (await spawning).kill()
            raise
        exited = asyncio.create_task(process.wait())
        watched = asyncio.create_task(self._watch())
        try:
            await asyncio.wait({exited, watched}, return_when=asyncio.FIRST_COMPLETED)
            self._accepts_requests = False
            # A server that is about to exit first gives bad answers. The reason for its exit says more.
            await asyncio.wait({exited}, timeout=EXIT_SECONDS)
            reason = exited.result() if exited.done() else watched.result()
            for line in process.last_lines:
                last_lines.info(line)
            return f"{reason}: {process.last_error}" if process.last_error else reason
        finally:
            exited.cancel()
            watched.cancel()
            await process.kill()
            self._process = None

    async def _watch(self) -> str:
        """Wait until the child is ready, then until it is unhealthy. Returns what is wrong."""
        start_timeout = self._supervision.start_timeout
        try:
            async with asyncio.timeout(start_timeout):
                await self._until_healthy_is(True, POLL_SECONDS)
        except TimeoutError:
            return f"not ready after {start_timeout:.0f} s"
        if not await self._enter_ready():
            return "healthy, and answers no request"
        await self._until_healthy_is(False, self._supervision.health_interval)
        return "hung or unhealthy"

    async def _until_healthy_is(self, wanted: bool, interval: float) -> None:
        while True:
            if await self._healthy() is wanted:
                return
            await asyncio.sleep(interval)

    async def _healthy(self) -> bool:
        """Ask the health route. If a chat has timed out, also ask for one token.

        The health route does not notice that the engine core hangs.
        """
        health_timeout = self._supervision.health_timeout
        if not await self.client.health(health_timeout):
            return False
        if not self.client.chat_timed_out:
            return True
        message = {"role": "user", "content": "."}
        body = {"model": self._options.served_model_name, "messages": [message], "max_tokens": 1}
        try:
            async with asyncio.timeout(health_timeout):
                await self.client.chat(body)
        except (SmoothgateError, TimeoutError):
            return False
        return True
