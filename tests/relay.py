"""Passes connections on to another port, so that a server that others use too can hang or go for some alone.

    python -I -S relay.py PORT TARGET_PORT

Seen from its clients, a relay that is stopped is a server that hangs, and one that is killed is a server that
has gone. Its clients' connections are closed when the server closes them, and the other way round.
"""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_CHUNK = 1 << 16


@contextmanager
def relaying(port: int, target: int) -> Iterator[subprocess.Popen[bytes]]:
    """A relay as a process of its own, listening."""
    command = [sys.executable, "-I", "-S", __file__, str(port), str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            yield process
        finally:
            process.kill()


async def _relay(port: int, target: int) -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, to_there = await asyncio.open_connection("127.0.0.1", target)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_pass_on(reader, to_there), _pass_on(there, writer))

    async with await asyncio.start_server(accept, "127.0.0.1", port) as server:
        print("listening", flush=True)
        await server.serve_forever()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
    writer.close()


if __name__ == "__main__":
    asyncio.run(_relay(*map(int, sys.argv[1:])))
