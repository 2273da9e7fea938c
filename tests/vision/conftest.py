import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

import smoothgate
from tests import checkpoints
from tests.conftest import KV_CACHE_GIB

START_SECONDS = 480  # 35 on a free machine, far more on a loaded one
SOCKET = "v.sock"
TOWERS = ("clip", "siglip")


@pytest.fixture(scope="package")
def native_engines() -> Iterator[dict[str, tuple[Path, httpx.Client]]]:
    """A checkpoint for each tower, and a vLLM that also takes pixels, unlike the service's own."""
    with tempfile.TemporaryDirectory(prefix="gate") as name:
        paths = {tower: checkpoints.build(Path(name) / tower, tower) for tower in TOWERS}
        processes = [_start(path) for path in paths.values()]
        try:
            with ExitStack() as stack:
                engines = {}
                for process, (tower, path) in zip(processes, paths.items(), strict=True):
                    _wait(process, path / SOCKET)
                    engines[tower] = path, stack.enter_context(_connect(path))
                yield engines
        finally:
            for process in processes:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _start(path: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(path)]
    command += ["--served-model-name", "tiny", "--uds", str(path / SOCKET), "--dtype", "float32"]
    command += ["--enforce-eager", "--enable-mm-embeds", "--limit-mm-per-prompt", '{"image": 2}']
    command += ["--max-model-len", "512", "--max-num-seqs", "4"]
    command += ["--kv-cache-memory-bytes", str(round(KV_CACHE_GIB * 2**30))]
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(smoothgate.__file__).parent / "compat" / "child_site"),
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_RPC_BASE_PATH": str(path),
    }
    with (path / "vllm.log").open("wb") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def _connect(path: Path) -> httpx.Client:
    transport = httpx.HTTPTransport(uds=str(path / SOCKET))
    return httpx.Client(transport=transport, base_url="http://engine", timeout=60)


def _wait(process: subprocess.Popen[bytes], path: Path) -> None:
    """Return when connections to the socket are accepted, which vLLM does once the model is loaded."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(
                f"vLLM exited with {process.returncode}: {(path.parent / 'vllm.log').read_text()}"
            )
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                return
        time.sleep(0.5)
    raise TimeoutError("vLLM was not ready in time")
