"""The guard around trees of processes that behave badly."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import psutil
import pytest

from smoothgate.engine.vllm_process import GUARD
from tests import processes

Start = Callable[[str], subprocess.Popen[bytes]]

# A child that ignores SIGTERM and has a child of its own, in a session of its own.
TREE = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("up", flush=True)
time.sleep(600)
"""

SHARED_MEMORY = """
import time
from multiprocessing.shared_memory import SharedMemory
print(SharedMemory(create=True, size=4096).name, flush=True)
time.sleep(600)
"""


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def guarded(code: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-I", "-S", str(GUARD), sys.executable, "-c", code]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        return started[-1]

    yield guarded
    for process in started:
        with process:  # closes the pipes, so the guard ends
            close_stdin(process)


def close_stdin(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()


def guarded_by(guard: subprocess.Popen[bytes]) -> psutil.Process:
    """The process of the command. What it has started are no children of the guard as long as it lives."""
    (command,) = psutil.Process(guard.pid).children()
    return command


def first_line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def test_exit_status_is_that_of_the_command(start: Start) -> None:
    assert start("raise SystemExit(7)").wait(60) == 7
    assert start("import os, signal; os.kill(os.getpid(), signal.SIGKILL)").wait(60) == 128 + signal.SIGKILL


def test_sigterm_is_passed_on(start: Start) -> None:
    process = start("import time; print('up', flush=True); time.sleep(600)")
    first_line(process)
    process.terminate()
    assert process.wait(60) == 128 + signal.SIGTERM


def test_no_process_outlives_the_command(start: Start) -> None:
    process = start(TREE)
    first_line(process)
    tree = processes.descendants(process.pid)
    assert len(tree) == 2
    guarded_by(process).kill()
    process.wait(60)
    assert not any(map(processes.alive, tree))


def test_everything_ends_when_the_service_does(start: Start) -> None:
    process = start(TREE)
    first_line(process)
    tree = processes.descendants(process.pid)
    close_stdin(process)
    process.wait(60)
    assert tree
    assert not any(map(processes.alive, tree))


def test_shared_memory_is_unlinked_after_a_kill(start: Start) -> None:
    process = start(SHARED_MEMORY)
    segment = f"/dev/shm/{first_line(process)}"
    assert os.path.exists(segment)
    guarded_by(process).kill()
    process.wait(60)
    assert not os.path.exists(segment)
