import asyncio

import pytest

from smoothgate.engine import EngineState, RemoteEngine
from smoothgate.errors import NotReady
from tests.waiting import eventually, until_ready

pytestmark = pytest.mark.asyncio


class Deployment:
    """A server on a local port. The test sets whether it is healthy."""

    def __init__(self) -> None:
        self.healthy = True
        self.requests: list[bytes] = []

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append(await reader.readuntil(b"\r\n\r\n"))
        body = b'{"data": [{"id": "m"}]}'
        status = b"200 OK" if self.healthy else b"503 X"
        head = b"HTTP/1.1 %b\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
        writer.write(head + body)
        await writer.drain()
        writer.close()


async def test_status_follows_the_health_of_the_deployment() -> None:
    deployment = Deployment()
    states: list[EngineState] = []
    async with await asyncio.start_server(deployment.answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        engine = RemoteEngine(
            f"http://127.0.0.1:{port}/base",
            None,
            api_key="key",
            health_interval=0.02,
            on_change=lambda status: states.append(status.state),
        )
        with pytest.raises(NotReady):
            await engine.client.chat({})
        await engine.start()
        await until_ready(engine, 5)
        assert await engine.client.models() == [{"id": "m"}]
        deployment.healthy = False
        await eventually(lambda: engine.status.state is EngineState.BACKOFF)
        with pytest.raises(NotReady):
            await engine.client.chat({})
        deployment.healthy = True
        await eventually(lambda: engine.status.state is EngineState.READY)
        await engine.stop()
    assert states == [
        EngineState.STARTING,
        EngineState.READY,
        EngineState.BACKOFF,
        EngineState.READY,
        EngineState.STOPPED,
    ]
    lines = deployment.requests[0].split(b"\r\n")
    assert lines[0] == b"GET /base/health HTTP/1.1"
    assert b"Authorization: Bearer key" in lines
