"""Requests that are cancelled at every step of the event loop in turn."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field

import httpx
import pytest
import pytest_asyncio

from smoothgate.compat.closing_transport import ClosingTransport
from tests.waiting import eventually


@dataclass
class Server:
    """Answers each request with two parts.

    Attributes:
        url: its address.
        open: the connections that it has.
    """

    url: str = ""
    open: set[asyncio.StreamWriter] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open.add(writer)
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
                await asyncio.sleep(0)
                writer.write(b"0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            self.open.discard(writer)


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Server]:
    served = Server()
    async with await asyncio.start_server(served.serve, "127.0.0.1", 0) as listening:
        served.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"
        yield served


async def whole(client: httpx.AsyncClient, url: str) -> None:
    assert (await client.get(url)).content == b"a"


async def beginning(client: httpx.AsyncClient, url: str) -> None:
    response = await client.send(client.build_request("GET", url), stream=True)
    async with aclosing(response):
        assert await anext(response.aiter_raw()) == b"a"


async def cancelled_after(steps: int, work: Awaitable[None], again: int | None) -> bool:
    """Cancel work after some steps of the loop, and perhaps once more. Whether it ended before that."""
    task = asyncio.ensure_future(work)
    for _ in range(steps):
        await asyncio.sleep(0)
    ended = task.done()
    task.cancel()
    if again is not None:
        for _ in range(again):
            await asyncio.sleep(0)
        task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return ended


@pytest.mark.asyncio
@pytest.mark.parametrize("again", [None, 1])
@pytest.mark.parametrize("ask", [whole, beginning])
@pytest.mark.parametrize("kept", [0, 1])
async def test_a_request_that_is_cancelled_leaves_no_connection_open(
    server: Server,
    kept: int,
    ask: Callable[[httpx.AsyncClient, str], Awaitable[None]],
    again: int | None,
) -> None:
    limits = httpx.Limits(max_keepalive_connections=kept)
    steps, ended = 0, False
    while not ended:
        async with httpx.AsyncClient(transport=ClosingTransport(limits=limits)) as client:
            ended = await cancelled_after(steps, ask(client, server.url), again)
            # A connection is open only where it is kept for the next request.
            await eventually(lambda: len(server.open) <= kept)
            await asyncio.wait_for(whole(client, server.url), 5)
            await eventually(lambda: len(server.open) <= kept)
        await eventually(lambda: not server.open)
        steps += 1
    assert steps > 8, "the request ended before most of its steps were cancelled"
