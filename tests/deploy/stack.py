"""The parts of a deployment as processes of this machine: a vLLM, gates before it, an Envoy before those, a
Prometheus beside them.
"""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from smoothgate.demo import bundled
from smoothgate.engine.vllm_command import VLLMOptions, vllm_command, vllm_environment
from smoothgate.gate.served_model import DEMO_NAME
from smoothgate.settings import PREFIX
from smoothgate_lab.evaluation.running_service import free_port, running
from tests import processes
from tests.conftest import KV_CACHE_GIB

ROOT = Path(__file__).parent.parent.parent
START_SECONDS = 600

# Small, so that two cores have room for all of it. Draining takes as long as the longest stream of a test.
_GATE = {
    "LOG_FORMAT": "json",
    "N_SELECT": "16",
    "N_CERTIFY": "64",
    "THREADS": "1",
    "BATCH_SIZE": "32",
    "SHUTDOWN_TIMEOUT_SECONDS": "60",
}


def wait_until(condition: Callable[[], Any], seconds: float, told: Callable[[], object]) -> Any:
    """What the condition returns as soon as that is true; an error that says `told` where it never is."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, told()
        time.sleep(0.2)
    return found


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.TransportError:
        return False


@contextmanager
def process(command: list[str], log: Path, environment: dict[str, str] | None = None) -> Iterator[int]:
    """A process and all below it, ended with the block; its id."""
    with log.open("w") as out:
        started = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
    try:
        yield started.pid
    finally:
        below = processes.descendants(started.pid)
        started.terminate()
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()
        for pid in below:
            if processes.alive(pid):
                os.kill(pid, signal.SIGKILL)


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Processes and all below them, hung for the block."""
    tree = [pid for each in pids for pid in (each, *processes.descendants(each))]
    for pid in tree:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in tree:
            os.kill(pid, signal.SIGCONT)


@dataclass
class _Part:
    """A server that can be ended and started again on the same port; its log is in the folder."""

    folder: Path
    port: int = field(default_factory=free_port, kw_only=True)
    pid: int = field(default=0, kw_only=True)
    _stack: ExitStack = field(default_factory=ExitStack, kw_only=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """SIGTERM, and wait until it has gone."""
        self._stack.close()


class Vllm(_Part):
    """A vLLM on the demo model that is nobody's child, as in the topology `split`."""

    def start(self) -> None:
        options = VLLMOptions(
            model=str(bundled("model")),
            served_model_name=DEMO_NAME,
            dtype="float32",
            kv_cache_gib=KV_CACHE_GIB,
            drain_seconds=0,
        )
        command = vllm_command(options, Path("unused"), on_cpu=True)
        at = command.index("--uds")
        command[at : at + 2] = ["--host", "127.0.0.1", "--port", str(self.port)]
        log = self.folder / "vllm.log"
        # Not pytest's: vLLM makes sockets there, and their paths must be short.
        scratch = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="vllm-"))
        environment = vllm_environment(options.model, Path(scratch), on_cpu=True)
        self.pid = self._stack.enter_context(process(command, log, environment))
        wait_until(lambda: answers(f"{self.url}/health"), START_SECONDS, lambda: log.read_text()[-3000:])


@dataclass
class Gate(_Part):
    """A service.

    Attributes:
        settings: beside those of all gates.
        until: see `running`.
    """

    settings: dict[str, str]
    until: str = "/health/ready"
    metrics_port: int = field(default_factory=free_port)

    def start(self) -> None:
        settings = _GATE | {"METRICS_PORT": str(self.metrics_port)} | self.settings
        named = {PREFIX + name: value for name, value in settings.items()}
        log = self.folder / f"gate-{self.port}.log"
        self.pid = self._stack.enter_context(running(log, named, port=self.port, until=self.until)).pid


@contextmanager
def started(*parts: Vllm | Gate) -> Iterator[None]:
    """All of them at once: a start is mostly one core's work."""
    with ExitStack() as stack:
        for part in parts:
            stack.callback(part.stop)
        with ThreadPoolExecutor(len(parts)) as pool:
            list(pool.map(lambda part: part.start(), parts))
        yield


@dataclass(frozen=True)
class Stack:
    """The topology `split` in small: two gates in front of one vLLM."""

    vllm: Vllm
    gates: tuple[Gate, Gate]
