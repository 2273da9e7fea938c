"""httpx's transport, which closes the connection of a request that is cancelled, at whatever step that is.

httpcore 1.0 loses connections at three steps: a TLS handshake, the step between a new connection and its
first request, and the end of a response. A lost connection stays open, so its server goes on answering.
"""

# httpcore names the parameters.
# ruff: noqa: ASYNC109

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from typing import Any, cast

import httpcore
import httpx

_closing: set[asyncio.Task[None]] = set()


class ClosingTransport(httpx.AsyncHTTPTransport):
    """Takes what `httpx.AsyncHTTPTransport` takes, proxies and HTTP/2 excepted."""

    _pool: httpcore.AsyncConnectionPool

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._pool._network_backend = _Backend(self._pool._network_backend)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return the open response. Its connection is closed if that fails."""
        try:
            response = await super().handle_async_request(request)
        except BaseException:
            await _to_its_end(self._close_lost())
            raise
        response.stream = _Body(cast(httpx.AsyncByteStream, response.stream), self._close_lost)
        return response

    async def _close_lost(self) -> None:
        """Close the connections that serve no request and wait for none."""
        used = {request.connection for request in self._pool._requests}
        lost = [each for each in self._pool._connections if each not in used and not each.is_idle()]
        for connection in lost:
            self._pool._connections.remove(connection)
        for connection in lost:
            await connection.aclose()


class _Body(httpx.AsyncByteStream):
    """The body of a response, which is closed to its end, also when the closing is cancelled."""

    def __init__(self, body: httpx.AsyncByteStream, close_lost: Callable[[], Awaitable[None]]) -> None:
        self._body = body
        self._close_lost = close_lost

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._body:
            yield part

    async def aclose(self) -> None:
        await _to_its_end(self._close())

    async def _close(self) -> None:
        await self._body.aclose()
        await self._close_lost()


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Await work that goes on when this is cancelled."""
    task = asyncio.create_task(work)
    _closing.add(task)
    task.add_done_callback(_closing.discard)
    await asyncio.shield(task)


class _Backend(httpcore.AsyncNetworkBackend):
    def __init__(self, backend: httpcore.AsyncNetworkBackend) -> None:
        self._backend = backend

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        stream = await self._backend.connect_tcp(host, port, timeout, local_address, socket_options)
        return _Stream(stream)

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        return _Stream(await self._backend.connect_unix_socket(path, timeout, socket_options))

    async def sleep(self, seconds: float) -> None:
        await self._backend.sleep(seconds)


class _Stream(httpcore.AsyncNetworkStream):
    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            return await self._stream.start_tls(ssl_context, server_hostname, timeout)
        except asyncio.CancelledError:
            await _to_its_end(self.aclose())
            raise

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
