import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from structlog.typing import EventDict

from smoothgate.engine import LocalEngine, VLLMOptions
from tests import checkpoints, processes
from tests.captured_log import captured
from tests.checkpoints import MODEL_NAME
from tests.shared_vllm import KV_CACHE_GIB
from tests.waiting import until_ready

Respond = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]
Serve = Callable[[Respond], Awaitable[Path]]


@pytest.fixture
def log_lines() -> Iterator[list[EventDict]]:
    """The logged lines, one dictionary for each."""
    with captured() as lines:
        yield lines


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder with a path short enough for a Unix socket. pytest's own may be too long."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest_asyncio.fixture
async def serve(short_path: Path) -> AsyncIterator[Serve]:
    """Start a server that answers every request with exactly what `respond(request, writer)` writes."""
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


@pytest.fixture(scope="package")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaVA with a CLIP tower."""
    return checkpoints.build(tmp_path_factory.mktemp("checkpoint"))


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def shared_engine(tiny_checkpoint: Path) -> AsyncIterator[LocalEngine]:
    """A real vLLM on the tiny checkpoint. Tests may kill it, so they use the fixture `engine`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXX", "/bin/false")  # a container may have no compiler
        options = VLLMOptions(
            model=str(tiny_checkpoint),
            served_model_name=MODEL_NAME,
            dtype="float32",
            max_model_len=checkpoints.CONTEXT,
            kv_cache_gib=KV_CACHE_GIB,
        )
        engine = LocalEngine(options)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()
    assert not processes.mentioning(str(engine.socket))
    assert not engine.socket.parent.exists()


@pytest_asyncio.fixture(loop_scope="session")
async def engine(shared_engine: LocalEngine) -> LocalEngine:
    await until_ready(shared_engine)
    return shared_engine
