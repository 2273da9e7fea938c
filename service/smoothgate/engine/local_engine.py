"""vLLM as a supervised child: started, watched, restarted when it dies or hangs, stopped with the service."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import structlog
import torch

from smoothgate.engine.engine_client import EngineClient
from smoothgate.engine.status import EngineState, EngineStatus
from smoothgate.engine.vllm_command import vllm_command, vllm_environment
from smoothgate.engine.vllm_process import EngineProcess
from smoothgate.errors import SmoothgateError

log = structlog.get_logger("engine")

POLL_SECONDS = 0.2
EXIT_SECONDS = 1.0
LONGEST_SOCKET_PATH = 100  # the kernel's limit is 108 bytes


class LocalEngine:
    """A vLLM child on a Unix socket that only this user can open.

    Args:
        model: a checkpoint's folder or Hugging Face id.
        served_model_name: the name that requests carry in `model`.
        dtype: vLLM's arithmetic; embeddings go over in the same.
        max_model_len: context length in tokens, or None for the checkpoint's own.
        kv_cache_gib: key/value cache on a CPU, in GiB.
        extra_args: further arguments for vLLM.
        read_timeout: see `EngineClient`.
        start_timeout: seconds after which a child that is not ready is killed and started again.
        drain_seconds: how long `stop` lets requests in flight finish.
        tracing_url: OTLP/HTTP collector for vLLM's spans, or None.
        media_limits: media of each kind per prompt; None: no image. The service sends no pixels in any case.
        prompt_embeds: whether prompts may hold embeddings in place of text.
        backoff: first and longest pause before a restart, in seconds; it doubles with every failure in a row.
        healthy_seconds: a run that was ready for so long ends the row.
        health_interval, health_timeout: how often the child is asked for its health, and how long it may
            take to answer before it counts as hung and is killed; in seconds.
        on_change: called with the new status at every change of state.

    Raises:
        ValueError: `extra_args` holds an argument that the service sets itself.
    """

    def __init__(
        self,
        model: str,
        *,
        served_model_name: str,
        dtype: str = "auto",
        max_model_len: int | None = None,
        kv_cache_gib: float = 1,
        extra_args: Sequence[str] = (),
        read_timeout: float = 60.0,
        start_timeout: float = 600.0,
        drain_seconds: float = 20.0,
        tracing_url: str | None = None,
        media_limits: Mapping[str, int] | None = None,
        prompt_embeds: bool = False,
        backoff: tuple[float, float] = (1.0, 60.0),
        healthy_seconds: float = 60.0,
        health_interval: float = 5.0,
        health_timeout: float = 30.0,
        on_change: Callable[[EngineStatus], None] = lambda status: None,
    ) -> None:
        self._folder = Path(tempfile.gettempdir()) / f"smoothgate-{secrets.token_hex(8)}"
        self.socket = self._folder / "v.sock"
        if len(os.fsencode(self.socket)) > LONGEST_SOCKET_PATH:
            raise ValueError(f"TMPDIR is too long a path for a Unix socket: {tempfile.gettempdir()}")
        on_cpu = not torch.cuda.is_available()
        self._command = vllm_command(
            model,
            self.socket,
            served_model_name=served_model_name,
            dtype=dtype,
            max_model_len=max_model_len,
            kv_cache_gib=kv_cache_gib,
            drain_seconds=drain_seconds,
            tracing_url=tracing_url,
            media_limits=media_limits,
            prompt_embeds=prompt_embeds,
            on_cpu=on_cpu,
            extra=extra_args,
        )
        self._served_model_name = served_model_name
        self._environment = vllm_environment(model, self._folder, on_cpu=on_cpu)
        self._start_timeout = start_timeout
        self._drain_seconds = drain_seconds
        self._backoff = backoff
        self._healthy_seconds = healthy_seconds
        self._health_interval = health_interval
        self._health_timeout = health_timeout
        self._on_change = on_change
        self._status = EngineStatus(EngineState.STOPPED, time.monotonic())
        self._ready = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None
        self._process: EngineProcess | None = None
        self.client = EngineClient(socket=self.socket, read_timeout=read_timeout, ready=self._ready.is_set)

    @property
    def status(self) -> EngineStatus:
        """The state as it is now."""
        return self._status

    async def start(self) -> None:
        """Begin to supervise. Returns at once; `wait_ready` waits until the child answers."""
        self._folder.mkdir(mode=0o700)  # fails where it exists: nobody can have prepared it
        self._supervisor = asyncio.create_task(self._supervise())

    async def wait_ready(self) -> None:
        """Wait until the child answers, however many starts that takes."""
        await self._ready.wait()

    async def stop(self) -> None:
        """Let requests in flight finish, end the child and take its files away.

        vLLM's own orderly shutdown takes 10 s even when idle, and all requests go through our client: it
        knows when nothing is left to wait for.
        """
        self._ready.clear()
        await self.client.drained(self._drain_seconds)
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait([self._supervisor])
        if self._process is not None:  # the supervisor was cancelled while it was killing it
            await self._process.kill()
        self._enter(EngineState.STOPPED)
        await self.client.aclose()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _supervise(self) -> None:
        pause, longest = self._backoff
        while True:
            self._enter(EngineState.STARTING)
            try:
                exit_reason = await self._run_once()
            except Exception as error:  # whatever it is: a supervisor that has died restarts nothing
                log.exception("engine supervision failed")
                exit_reason = f"{type(error).__name__}: {error}"
            if self._status.state is EngineState.READY and self._status.elapsed > self._healthy_seconds:
                pause = self._backoff[0]
            self._enter(EngineState.BACKOFF, last_exit=exit_reason)
            log.error("engine lost", reason=exit_reason, restart_in_seconds=pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)
            self._status = replace(self._status, restarts=self._status.restarts + 1)

    async def _run_once(self) -> str:
        """One run of the child, from start to end. Returns how it ended."""
        self.client.silent = False
        self.socket.unlink(missing_ok=True)  # vLLM does not start where a former run's socket lies
        spawning = asyncio.create_task(EngineProcess.spawn(self._command, self._environment))
        try:
            self._process = process = await asyncio.shield(spawning)
        except asyncio.CancelledError:  # asyncio would kill the guard alone, and its child would stay
            await (await spawning).kill()
            raise
        exited = asyncio.create_task(process.wait())
        watched = asyncio.create_task(self._watch())
        try:
            await asyncio.wait({exited, watched}, return_when=asyncio.FIRST_COMPLETED)
            self._ready.clear()
            # A server that is about to go answers badly first, and its exit says more.
            await asyncio.wait({exited}, timeout=EXIT_SECONDS)
            reason = exited.result() if exited.done() else watched.result()
            return f"{reason}: {process.last_error}" if process.last_error else reason
        finally:
            exited.cancel()
            watched.cancel()
            await process.kill()
            self._process = None

    async def _watch(self) -> str:
        """Wait until the child is ready, then until it is not well. Returns what was wrong."""
        try:
            async with asyncio.timeout(self._start_timeout):
                await self._until_healthy_is(True, POLL_SECONDS)
        except TimeoutError:
            return f"not ready after {self._start_timeout:.0f} s"
        log.info("engine ready", seconds=round(self._status.elapsed, 1))
        self._enter(EngineState.READY)
        await self._until_healthy_is(False, self._health_interval)
        return "hung or unwell"

    async def _until_healthy_is(self, wanted: bool, interval: float) -> None:
        while True:
            if await self._healthy() is wanted:
                return
            await asyncio.sleep(interval)

    async def _healthy(self) -> bool:
        """Ask the health route and, where a chat has timed out, for one token: the route does not see a core
        that hangs."""
        if not await self.client.health(self._health_timeout):
            return False
        if not self.client.silent:
            return True
        message = {"role": "user", "content": "."}
        body = {"model": self._served_model_name, "messages": [message], "max_tokens": 1}
        try:
            async with asyncio.timeout(self._health_timeout):
                await self.client.chat(body)
        except (SmoothgateError, TimeoutError):
            return False
        return True

    def _enter(self, state: EngineState, last_exit: str | None = None) -> None:
        self._status = replace(
            self._status, state=state, since=time.monotonic(), last_exit=last_exit or self._status.last_exit
        )
        if state is EngineState.READY:
            self._ready.set()
        else:
            self._ready.clear()
        self._on_change(self._status)
