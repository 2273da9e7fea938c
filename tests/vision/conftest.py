import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from smoothgate.engine.vllm_command import VLLMOptions, vllm_command, vllm_environment
from smoothgate.engine.vllm_process import GUARD
from tests import checkpoints
from tests.shared_vllm import KV_CACHE_GIB

START_SECONDS = 480  # 35 on a free machine, far more on a loaded one


@pytest.fixture(scope="module")
def native_engine() -> Iterator[tuple[Path, httpx.Client]]:
    """A checkpoint with a SigLIP tower, and a vLLM that also takes pixels, unlike the service's own."""
    with tempfile.TemporaryDirectory(prefix="vllm-") as name:
        folder = Path(name)
        path, address, log = checkpoints.build(folder / "model", "siglip"), folder / "v.sock", folder / "log"
        options = VLLMOptions(
            model=str(path),
            served_model_name=checkpoints.MODEL_NAME,
            dtype="float32",
            max_model_len=512,
            kv_cache_gib=KV_CACHE_GIB,
            media_limits={"image": 2},
            extra_args=("--max-num-seqs", "4"),
        )
        command = [sys.executable, "-I", "-S", str(GUARD), *vllm_command(options, address, on_cpu=True)]
        environment = vllm_environment(str(path), folder, on_cpu=True)
        with (
            log.open("wb") as out,
            subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=out, stderr=out
            ) as guard,
            httpx.Client(
                transport=httpx.HTTPTransport(uds=str(address)), base_url="http://engine", timeout=60
            ) as client,
        ):
            assert guard.stdin is not None
            try:
                _wait(guard, address, log)
                yield path, client
            finally:
                guard.stdin.close()  # upon which the guard ends vLLM


def _wait(guard: subprocess.Popen[bytes], address: Path, log: Path) -> None:
    """Return when connections to the socket are accepted, which vLLM does once the model is loaded."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert guard.poll() is None, f"vLLM exited with {guard.returncode}: {log.read_text()}"
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(address)) == 0:
                return
        time.sleep(0.5)
    raise TimeoutError("vLLM was not ready in time")
