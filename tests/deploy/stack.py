"""The parts of a deployment as processes of this machine: a vLLM, gates before it, an Envoy before those, a
Prometheus beside them.
"""

import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from smoothgate.settings import PREFIX
from smoothgate_lab.evaluation.running_service import free_port, running
from tests import processes
from tests.relay import relaying

ROOT = Path(__file__).parent.parent.parent

# Small, so that two cores have room for all of it. Draining takes as long as the longest stream of a test.
_GATE = {
    "LOG_FORMAT": "json",
    "N_SELECT": "16",
    "N_CERTIFY": "64",
    # So few samples say nothing at larger distances.
    "EPS": "0.1,0.5,1.0",
    # As Envoy's health checks call it.
    "HOSTS": "gate",
    "SHUTDOWN_TIMEOUT_SECONDS": "60",
}


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


@dataclass
class Vllm(_Part):
    """The vLLM that all tests share, as these gates see it: nobody's child, as in the topology `split`.

    It is reached through a relay. Stopping the relay makes vLLM hang for these gates and for no other test.

    Attributes:
        shared: the address of the vLLM that all tests share.
    """

    shared: str

    def start(self) -> None:
        target = int(self.shared.rpartition(":")[2])
        self.pid = self._stack.enter_context(relaying(self.port, target)).pid


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

    @property
    def ports(self) -> list[int]:
        return [gate.port for gate in self.gates]
