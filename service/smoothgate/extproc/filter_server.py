"""`smoothgate extproc`: the filter behind a gRPC port, and the health that Envoy and Kubernetes ask for."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import grpc
from envoy_data_plane.envoy.service.ext_proc.v3 import ProcessingRequest
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import OVERALL_HEALTH
from grpc_health.v1.health import aio as grpc_health
from grpc_health.v1.health_pb2 import HealthCheckResponse

from smoothgate import tracing
from smoothgate.errors import SmoothgateError
from smoothgate.extproc.exchange import exchange
from smoothgate.gate.build import build
from smoothgate.gate.service import Service
from smoothgate.http.filter_app import create_filter
from smoothgate.logs import get_logger
from smoothgate.server import metrics_port
from smoothgate.settings import Settings

#: As Envoy calls it.
SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
#: Name of the process's own health, for Kubernetes: a filter that is not ready is not started again.
LIVE = "live"
_METHOD = "Process"
_POLL_SECONDS = 0.5
# Beside the body that a message holds: headers of requests, which Envoy limits to 60 KiB.
_HEADER_BYTES = 128 * 1024
_MOST = 2**31 - 1

_Status = HealthCheckResponse.ServingStatus

log = get_logger("extproc")


def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT.

    Args:
        settings: without an engine: whoever sends requests to vLLM stands behind Envoy.

    Raises:
        SmoothgateError: the reason why it could not start.
    """
    if settings.tracing_url is not None:
        tracing.configure(settings.tracing_url)
    service = build(settings)

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT)

        def end() -> None:
            stop.set()
            for number in signals:  # the second one ends the process at once
                loop.remove_signal_handler(number)

        for number in signals:
            loop.add_signal_handler(number, end)
        await serve_until(stop, service, settings)

    with metrics_port(settings):
        asyncio.run(run())
    log.info("stopped")


async def serve_until(
    stop: asyncio.Event, service: Service, settings: Settings, listening: Callable[[], None] = lambda: None
) -> None:
    """Start the service, filter until the event, let the requests under way finish, and stop the service.

    Args:
        stop: ends it.
        service: not started.
        settings: of the process.
        listening: called once the port is open. The service may not be ready yet.

    Raises:
        SmoothgateError: the settings do not fit a filter, the service cannot start, or the port is not free.
    """
    if settings.certify == "answer":
        raise SmoothgateError(
            "SMOOTHGATE_CERTIFY=answer: a filter sees no answer. It certifies features.", code="bad_certify"
        )
    server, health = _server(service, settings)
    await service.start()
    try:
        await server.start()
        await health.set(LIVE, _Status.SERVING)
        watching = asyncio.create_task(_tell_health(service, health, settings))
        try:
            listening()
            await stop.wait()
        finally:
            watching.cancel()
            await _drain(server, service, health, settings.shutdown_timeout_seconds)
    finally:
        await service.stop()


def _server(service: Service, settings: Settings) -> tuple[grpc.aio.Server, Any]:
    app = create_filter(service, settings)

    async def process(_: object, stream: Any) -> None:
        await exchange(app, stream)

    options = [
        # BUFFERED bodies come in one message. `max_body_bytes` refuses them with a reason before this does.
        ("grpc.max_receive_message_length", min(2 * settings.max_body_bytes + _HEADER_BYTES, _MOST)),
        ("grpc.max_send_message_length", -1),
        # A second process on the same port would get half of the requests.
        ("grpc.so_reuseport", 0),
    ]
    server = grpc.aio.server(options=options)
    method = grpc.stream_stream_rpc_method_handler(
        process, request_deserializer=ProcessingRequest.parse, response_serializer=bytes
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {_METHOD: method}),))
    health = grpc_health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    try:
        server.add_insecure_port(f"{host}:{settings.port}")
    except RuntimeError as error:
        raise SmoothgateError(
            f"Cannot listen on port {settings.port} of {settings.host}: choose another with --port or "
            "SMOOTHGATE_PORT.",
            code="bad_port",
        ) from error
    return server, health


async def _tell_health(service: Service, health: Any, settings: Settings) -> None:
    told = None
    while True:
        problems = service.health.problems()
        status = _Status.NOT_SERVING if problems else _Status.SERVING
        if status != told:
            for name in (OVERALL_HEALTH, SERVICE):
                await health.set(name, status)
            log.info(
                "not ready" if problems else "ready",
                model=service.model.name,
                address=f"{settings.host}:{settings.port}",
                **problems,
            )
            told = status
        await asyncio.sleep(_POLL_SECONDS)


async def _drain(server: grpc.aio.Server, service: Service, health: Any, seconds: float) -> None:
    """Refuse new requests with a reason while those under way are filtered, then wait for their responses."""
    service.in_flight.draining = True
    await health.enter_graceful_shutdown()
    log.info("draining", requests=service.in_flight.count, seconds=seconds)
    loop = asyncio.get_running_loop()
    ends = loop.time() + seconds
    await service.in_flight.end(seconds)
    await server.stop(max(ends - loop.time(), 0))
