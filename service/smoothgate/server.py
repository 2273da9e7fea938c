"""`smoothgate serve`: the application in uvicorn, with progress while vLLM loads and a command to try."""

from __future__ import annotations

import asyncio
import errno
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from prometheus_client import start_http_server
from rich.console import Console

from smoothgate import tracing
from smoothgate.bundled import CANARY, bundled
from smoothgate.errors import SmoothgateError
from smoothgate.gate.build import build
from smoothgate.gate.in_flight import InFlight
from smoothgate.gate.service import Service
from smoothgate.logs import get_logger
from smoothgate.playground.page_app import create_app
from smoothgate.settings import Settings

_POLL_SECONDS = 0.5
# Polls from one line of the log to the next.
_SAID_EVERY = 20
# What a person calls the parts of the service.
_PARTS = {"engine": "vLLM"}
# Longer than load balancers keep theirs (60 s is usual): none sends a request into a closing connection.
KEEP_ALIVE_SECONDS = 75
# Time for connections to close after the draining.
_LAST_SECONDS = 2

log = get_logger("serving")


def serve(settings: Settings, console: Console | None) -> bool:
    """Run until SIGINT or SIGTERM. Returns whether the service has started.

    Args:
        settings: of the process.
        console: shows the start; None: the log does.

    Raises:
        SmoothgateError: the reason why it could not start, where that is known.
    """
    with _bound(settings) as sockets:
        return _serve(settings, sockets, console)


def _serve(settings: Settings, sockets: list[socket.socket], console: Console | None) -> bool:
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

    to_try = _commands(settings)  # it asks for files, which the event loop should not wait for

    async def run() -> None:
        helpers = [
            asyncio.create_task(_announce(service, settings, to_try, lambda: server.started, console)),
            asyncio.create_task(server.drain()),
        ]
        try:
            with metrics_port(settings):
                await server.serve(sockets)
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
    if server.started:
        log.info("stopped")
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
def _bound(settings: Settings) -> Iterator[list[socket.socket]]:
    """Sockets on the port of every address of the host. Connections are refused until the server listens.

    The port is taken before anything is loaded, so that a port in use is known at once.

    Raises:
        SmoothgateError: code `bad_port`: the port is in use or may not be used, or the host is no address of
            this machine.
    """
    host, port = settings.host, settings.port
    with ExitStack() as stack:
        try:
            addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            sockets = [
                stack.enter_context(bound)
                for family, kind, protocol, _, address in dict.fromkeys(addresses)
                if (bound := _bound_to(socket.socket(family, kind, protocol), address)) is not None
            ]
            if not sockets:
                raise OSError(errno.EADDRNOTAVAIL, "it is no address of this machine")
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                message = f"Port {port} of {host} is in use: choose another with --port or SMOOTHGATE_PORT."
            else:
                message = f"Cannot listen on port {port} of {host}: {error.strerror}."
            raise SmoothgateError(message, code="bad_port") from error
        yield sockets


def _bound_to(unbound: socket.socket, address: Any) -> socket.socket | None:
    """The socket, bound; None where this machine does not have the address, as IPv6 where it is off."""
    try:
        unbound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if unbound.family == socket.AF_INET6:
            unbound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        unbound.bind(address)
    except OSError as error:
        unbound.close()
        if error.errno == errno.EADDRNOTAVAIL:
            return None
        raise
    return unbound


@contextmanager
def metrics_port(settings: Settings) -> Iterator[None]:
    """Run Prometheus' own small server on the configured port."""
    if settings.metrics_port is None:
        yield
        return
    try:
        server, thread = start_http_server(settings.metrics_port, settings.host)
    except OSError as error:
        raise SmoothgateError(
            f"SMOOTHGATE_METRICS_PORT={settings.metrics_port}: {error.strerror}.", code="bad_port"
        ) from error
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


async def _announce(
    service: Service,
    settings: Settings,
    to_try: Sequence[str],
    listening: Callable[[], bool],
    console: Console | None,
) -> None:
    """Show what the start waits for, and then what to try: on a console, or as lines of the log."""
    name = service.model.name
    with ExitStack() as stack:
        status = None if console is None else stack.enter_context(console.status(f"Starting {name}"))
        poll = 0
        while (problems := service.health.problems()) or not listening():
            seconds = round(poll * _POLL_SECONDS)
            waiting_for = problems or {"port": "not open yet"}
            if status is not None:
                parts = "; ".join(f"{_PARTS.get(part, part)}: {state}" for part, state in waiting_for.items())
                progress = f"Starting {name} for {seconds} s. {parts}"
                status.update(progress)
                if console is not None and not console.is_terminal and poll % _SAID_EVERY == 0:
                    console.print(progress, soft_wrap=True)
            elif poll % _SAID_EVERY == 0:
                log.info("starting", model=name, seconds=seconds, waiting_for=waiting_for)
            poll += 1
            await asyncio.sleep(_POLL_SECONDS)
    url = _url(settings)
    if console is None:
        log.info("ready", model=name, url=url, docs=f"{url}/docs")
        return
    page = f"playground: {url}/, " if settings.has_playground else ""
    console.print(
        f"\n[bold]{name}[/bold] answers at [bold]{url}[/bold]  ({page}docs: {url}/docs)\n", soft_wrap=True
    )
    console.print("Try it, and check what comes back:\n")
    for command in to_try:
        console.print(f"  {command}\n", soft_wrap=True, markup=False, highlight=False)


def _url(settings: Settings) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port}"


def _commands(settings: Settings) -> list[str]:
    """What to try first: a question, and a check of the answer."""
    url = _url(settings)
    model = bundled(settings.model)
    sample = _shown(CANARY if model is None else model.samples / model.sample)
    question = "What is shown?" if model is None else model.questions[0]
    ask = "certify" if settings.engine == "none" else f"chat -F 'message={question}'"
    key = "" if settings.accounts is None else " -H 'Authorization: Bearer KEY'"
    return [
        f"curl {url}/v1/{ask} -F image=@{sample}{key} | tee answer.json",
        f"{_command()} verify answer.json --keys {url}/.well-known/jwks.json",
    ]


def _command() -> str:
    """How to call the command-line tool from here."""
    beside = Path(sys.executable).with_name("smoothgate")
    return str(_shown(beside)) if beside.exists() and shutil.which("smoothgate") is None else "smoothgate"


def _shown(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
