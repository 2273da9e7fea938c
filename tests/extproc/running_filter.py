"""The filter in this process: real encoder, real sampler, a real gRPC port."""

import asyncio
import gc
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from smoothgate.extproc import filter_server
from smoothgate.gate.build import build
from smoothgate.gate.service import Service
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.settings import Settings
from smoothgate_lab.evaluation.running_service import free_port
from tests.quick_gate import SETTINGS, quick_smoother
from tests.waiting import wait_until


@dataclass(frozen=True)
class Filter:
    """A filter behind a port of its own.

    Attributes:
        stop: begins its end, and does not wait for it.
    """

    port: int
    service: Service
    stop: Callable[[], None]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@contextmanager
def running_filter(encoder: UnitEncoder, **settings: Any) -> Iterator[Filter]:
    """A filter, ready, stopped with the block; raises what keeps it from starting."""
    defaults: dict[str, Any] = {"engine": "none", "port": free_port()} | SETTINGS
    chosen = Settings(_env_file=None, **defaults | settings)
    service = build(chosen, load_smoother=quick_smoother(encoder, chosen))
    started: Future[Callable[[], None]] = Future()

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        await filter_server.serve_until(
            stop, service, chosen, lambda: started.set_result(lambda: _set(loop, stop))
        )

    def run_in_thread() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)
        finally:
            # gRPC waits for a thread when its last object goes: here, not in a loop of another test.
            gc.collect()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_in_thread)
        stop = started.result(30)
        try:
            wait_until(lambda: not service.health.problems(), 30, service.health.problems)
            yield Filter(chosen.port, service, stop)
        finally:
            stop()
            running.result(30)


def _set(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(stop.set)
