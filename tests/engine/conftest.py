import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import structlog

Respond = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]
Serve = Callable[[Respond], Awaitable[Path]]


@pytest.fixture
def log_lines() -> Iterator[list[dict[str, Any]]]:
    """What was logged, one dictionary a line."""
    with structlog.testing.capture_logs() as lines:
        yield lines


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose path leaves room for a Unix socket's name; pytest's own may not."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest_asyncio.fixture
async def serve(short_path: Path) -> AsyncIterator[Serve]:
    """Start a server that answers every request with what `respond(request, writer)` writes, byte by byte."""
    servers: list[asyncio.Server] = []

    async def begin(respond: Respond) -> Path:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (
                        int(line[15:])
                        for line in head.split(b"\r\n")
                        if line.lower().startswith(b"content-length:")
                    ),
                    0,
                )
                await respond(head + await reader.readexactly(length), writer)
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                writer.close()

        path = short_path / f"{len(servers)}.sock"
        servers.append(await asyncio.start_unix_server(answer, path))
        return path

    yield begin
    for server in servers:
        server.close()
