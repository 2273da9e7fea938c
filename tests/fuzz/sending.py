"""How requests get there and answers come back."""

import asyncio
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from tests.fuzz.request import Raw, Request

# A service that says nothing for so long hangs.
SECONDS = 60.0
_PIECE = 1 << 16


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        status: of HTTP.
        headers: names in lower case.
        body: all of it.
    """

    status: int
    headers: dict[str, str]
    body: bytes


class Lost(Exception):
    """No answer, or half of one, where one was due."""


async def send(request: Request | Raw, client: httpx.AsyncClient) -> Answer | None:
    """The answer; None where none is due.

    Raises:
        Lost: as it says.
    """
    try:
        if isinstance(request, Request):
            return await _over_http(request, client)
        async with asyncio.timeout(SECONDS):
            return await _over_a_socket(request, str(client.base_url))
    except (httpx.TransportError, OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
        raise Lost(f"{type(error).__name__}: {error}") from error


async def _over_http(request: Request, client: httpx.AsyncClient) -> Answer:
    headers = [(name.encode(), value.encode("latin-1")) for name, value in request.headers]
    response = await client.request(request.method, request.path, headers=headers, content=request.body)
    return Answer(response.status_code, dict(response.headers), response.content)


async def _over_a_socket(request: Raw, url: str) -> Answer | None:
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=1 << 20)
    try:
        writing = asyncio.create_task(_write(writer, request.sent))
        if not request.waits:
            await writing
            return None
        try:
            return await _read(reader, has_body=not request.sent.startswith(b"HEAD"))
        finally:
            writing.cancel()
    finally:
        writer.close()


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    """All of it, or as much as is taken."""
    try:
        for start in range(0, len(data), _PIECE):
            writer.write(data[start : start + _PIECE])
            await writer.drain()
    except OSError:
        pass


async def _read(reader: asyncio.StreamReader, *, has_body: bool) -> Answer:
    """The first response."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip().split("\r\n")
    status = int(first.split()[1])
    if status < 200:
        return await _read(reader, has_body=has_body)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = int(headers.get("content-length", 0)) if has_body else 0
    return Answer(status, headers, await reader.readexactly(length))
