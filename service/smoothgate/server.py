"""`smoothgate serve`: the application in uvicorn, with progress while vLLM loads and a command to try."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import structlog
import uvicorn
from prometheus_client import start_http_server
from rich.console import Console

from smoothgate import tracing
from smoothgate.demo import bundled
from smoothgate.errors import SmoothgateError
from smoothgate.gate.build import build
from smoothgate.gate.in_flight import InFlight
from smoothgate.gate.service import Service
from smoothgate.http.openapi_examples import SAMPLE
from smoothgate.playground.page_app import create_app
from smoothgate.settings import Settings

_POLL_SECONDS = 0.5
# Polls from one line to the next, where the output is no terminal.
_SAID_EVERY = 20
# Longer than load balancers keep theirs (60 s is usual): none sends a request into a closing connection.
KEEP_ALIVE_SECONDS = 75
# Time for connections to close after the draining.
_LAST_SECONDS = 2

log = structlog.get_logger("serving")


def serve(settings: Settings, console: Console) -> bool:
    """Run until SIGINT or SIGTERM. Returns whether the service has started.

    Raises:
        SmoothgateError: the reason why it could not start, where that is known.
    """
    if settings.tracing_url is not None:
        tracing.configure(settings.tracing_url)
    service = build(settings)
    config = uvicorn.Config(
        create_app(service, settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        ws="none",  # No route takes websockets, and uvicorn's own refusal has another shape.
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_LAST_SECONDS,
    )
    server = DrainingServer(config, service.in_flight, settings.shutdown_timeout_seconds)

    async def run() -> None:
        helpers = [
            asyncio.create_task(_announce(service, settings, lambda: server.started, console)),
            asyncio.create_task(server.drain()),
        ]
        try:
            with _metrics_port(settings):
                await server.serve()
        finally:
            for task in helpers:
                task.cancel()

    try:
        asyncio.run(run())
    except SystemExit:
        # uvicorn exits like this when the start has failed. The service knows the reason.
        if service.failure is not None:
            raise service.failure from None
        raise
    if service.failure is not None:
        raise service.failure
    return server.started


class DrainingServer(uvicorn.Server):
    """Keeps listening after the first SIGTERM or SIGINT until the requests in flight are finished.

    New requests get a 503, and probes get an answer. The second signal ends the server at once.

    Args:
        config: of uvicorn.
        in_flight: the requests in flight.
        seconds: time that they are given to finish.
    """

    def __init__(self, config: uvicorn.Config, in_flight: InFlight, seconds: float) -> None:
        super().__init__(config)
        self._in_flight = in_flight
        self._seconds = seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._signalled = asyncio.Event()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the draining at the first signal."""
        if self._loop is None or self._in_flight.draining or not self.started:
            super().handle_exit(sig, frame)
            return
        self._in_flight.draining = True
        self._loop.call_soon_threadsafe(self._signalled.set)

    async def drain(self) -> None:
        """Wait for the signal and then for the requests, and end the server."""
        self._loop = asyncio.get_running_loop()
        await self._signalled.wait()
        log.info("draining", requests=self._in_flight.count, seconds=self._seconds)
        await self._in_flight.end(self._seconds)
        self.should_exit = True


@contextmanager
def _metrics_port(settings: Settings) -> Iterator[None]:
    """Run Prometheus' own small server on the configured port."""
    if settings.metrics_port is None:
        yield
        return
    try:
        server, thread = start_http_server(settings.metrics_port, settings.host)
    except OSError as error:
        raise SmoothgateError(
            f"Port {settings.metrics_port} for metrics: {error.strerror}.", code="bad_port"
        ) from error
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


async def _announce(
    service: Service, settings: Settings, listening: Callable[[], bool], console: Console
) -> None:
    """Show what the start waits for, and then what to try."""
    name = service.model.name
    with console.status("Starting") as status:
        poll = 0
        while (problems := service.health.problems()) or not listening():
            waiting_for = ", ".join(f"{part} {state}" for part, state in problems.items())
            progress = f"Starting {name} for {poll * _POLL_SECONDS:.0f} s: {waiting_for or 'port'}"
            status.update(progress)
            if not console.is_terminal and poll % _SAID_EVERY == 0:
                console.print(progress)
            poll += 1
            await asyncio.sleep(_POLL_SECONDS)
    url = f"http://{settings.host}:{settings.port}"
    page = f"playground: {url}/, " if settings.has_playground else ""
    sample = _shown(bundled("samples") / SAMPLE)
    console.print(
        f"\n[bold]{name}[/bold] answers at [bold]{url}[/bold]  ({page}docs: {url}/docs)\n", soft_wrap=True
    )
    console.print("Try it:\n")
    ask = "certify" if settings.engine == "none" else "chat -F 'message=What digit is shown?'"
    console.print(f"  curl {url}/v1/{ask} -F image=@{sample}\n", soft_wrap=True)


def _shown(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
