"""One vLLM on the demo model for all tests of a run, whatever the number of pytest-xdist's workers.

The process that the run began with holds the writing end of a FIFO. The first process that needs vLLM starts
it under the service's own guard, with that FIFO as the guard's standard input. The guard ends vLLM when the
writing end closes, so nothing is left behind even where the run is killed.
"""

import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from smoothgate.bundled import DEMO
from smoothgate.engine.vllm_command import VLLMOptions, vllm_command, vllm_environment
from smoothgate.engine.vllm_process import GUARD
from smoothgate_lab.evaluation.running_service import free_port
from tests import processes

START_SECONDS = 280
STOP_SECONDS = 15
KV_CACHE_GIB = 0.25

# Tells the workers where the run keeps what they share.
_FOLDER = "TESTS_SHARED_VLLM"
# A process that has not been waited for must stay referenced: its destructor warns.
_started: list[subprocess.Popen[bytes]] = []


@contextmanager
def available() -> Iterator[None]:
    """Let this process and those that it starts call `start` and `url`; end vLLM with the block."""
    with tempfile.TemporaryDirectory(prefix="smoothgate-tests-") as name:
        folder = Path(name)
        os.mkfifo(folder / "life")
        # Opened for reading too: opening it for writing alone would wait for a reader.
        life = os.open(folder / "life", os.O_RDWR)
        outer = os.environ.get(_FOLDER)
        os.environ[_FOLDER] = name
        try:
            yield
        finally:
            os.close(life)
            _wait_for_the_end()
            del os.environ[_FOLDER]
            if outer is not None:
                os.environ[_FOLDER] = outer


def start() -> None:
    """Start vLLM unless a process of this run has done so. Does not wait until it answers."""
    folder = _folder()
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "running").exists():
            port = free_port()
            process = _spawn(folder, port)
            _started.append(process)
            (folder / "running").write_text(f"{process.pid} {port}")


def url() -> str:
    """The address of vLLM, without `/v1`. Starts it where needed, and waits until it answers."""
    start()
    address = f"http://127.0.0.1:{_running()[1]}"
    end = time.monotonic() + START_SECONDS
    while not _answers(address):
        log = (_folder() / "log").read_text(errors="replace")
        assert processes.alive(guard()), f"vLLM ended: {log[-3000:]}"
        assert time.monotonic() < end, f"vLLM does not answer: {log[-3000:]}"
        time.sleep(0.2)
    return address


def guard() -> int:
    """The process that started vLLM and ends it."""
    return _running()[0]


def _spawn(folder: Path, port: int) -> subprocess.Popen[bytes]:
    options = VLLMOptions(
        model=str(DEMO.model),
        served_model_name=DEMO.served_name,
        dtype="float32",
        kv_cache_gib=KV_CACHE_GIB,
        drain_seconds=0,
        prompt_embeds=True,
    )
    command = vllm_command(options, Path("unused"), on_cpu=True)
    at = command.index("--uds")
    command[at : at + 2] = ["--host", "127.0.0.1", "--port", str(port)]
    # vLLM makes sockets there, and the path of a socket must be short.
    scratch = folder / "scratch"
    scratch.mkdir()
    with (folder / "life").open("rb", buffering=0) as life, (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(GUARD), *command],
            env=vllm_environment(options.model, scratch, on_cpu=True),
            stdin=life,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _folder() -> Path:
    return Path(os.environ[_FOLDER])


def _running() -> tuple[int, int]:
    """The guard and vLLM's port."""
    process, port = map(int, (_folder() / "running").read_text().split())
    return process, port


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health", timeout=5).is_success
    except httpx.TransportError:
        return False


def _wait_for_the_end() -> None:
    if (_folder() / "running").exists():
        end = time.monotonic() + STOP_SECONDS
        while processes.alive(guard()) and time.monotonic() < end:
            time.sleep(0.05)
