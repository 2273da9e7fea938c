"""A service of our own to send things to."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from service.settings import PREFIX

_START_SECONDS = 600
_STOP_SECONDS = 60
# Small, so that what is accepted costs little and the cache is full after the warm-up.
_SETTINGS = {
    "LOG_FORMAT": "json",
    "ENGINE_MAX_MODEL_LEN": "512",
    "N_SELECT": "16",
    "N_CERTIFY": "64",
    "MAX_SAMPLES": "512",
    "CACHE_MIB": "1",
    "ALLOW_SMOOTHING_OFF": "true",
    "MAX_BODY_BYTES": str(4 << 20),
    "MAX_IMAGE_BYTES": str(1 << 20),
    "BODY_TIMEOUT_SECONDS": "3",
}


@contextmanager
def service(log: Path | None) -> Iterator[tuple[str, int]]:
    """`smoothgate serve` on the demo model with a real vLLM: its URL and its process.

    Args:
        log: where its log is kept; None where it is not.

    Raises:
        RuntimeError: it did not start; with the end of its log.
    """
    with tempfile.TemporaryDirectory(prefix="smoothgate-fuzz-") as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        environment = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)}
        environment |= {PREFIX + name: value for name, value in {"PORT": str(port), **_SETTINGS}.items()}
        log = Path(folder, "log") if log is None else log
        command = [sys.executable, "-c", "from service.cli import app; app()", "serve"]
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        try:
            _wait(process, f"http://127.0.0.1:{port}", log)
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while True:
        try:
            if httpx.get(f"{url}/health/ready").is_success:
                return
        except httpx.TransportError:
            pass
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"The service did not start: {log.read_text()[-3000:]}")
        time.sleep(0.5)
