"""The vLLM that tests share does not outlive the run, however that ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import processes, shared_vllm
from tests.waiting import wait_until

STAND_IN = ["sh", "-c", "exec sleep 600", "--uds", "unused"]
# A run of its own, in a process of its own.
RUN = f"""
import time
from tests import shared_vllm
shared_vllm.vllm_command = lambda *_, **__: {STAND_IN}
with shared_vllm.available():
    shared_vllm.start()
    print(shared_vllm.guard(), flush=True)
    time.sleep(600)
"""


def _vllm_of(guard: int) -> int:
    (vllm,) = wait_until(lambda: processes.descendants(guard), 60, lambda: "it was not started")
    return int(vllm)


def test_it_is_started_once_and_ends_with_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_vllm, "vllm_command", lambda *_, **__: [*STAND_IN])
    with shared_vllm.available():
        shared_vllm.start()
        guard = shared_vllm.guard()
        shared_vllm.start()
        assert shared_vllm.guard() == guard
        vllm = _vllm_of(guard)
    assert not processes.alive(guard)
    assert not processes.alive(vllm)


def test_it_ends_when_the_run_is_killed() -> None:
    root = Path(__file__).parent.parent
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    with subprocess.Popen([sys.executable, "-c", RUN], env=environment, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        guard = int(run.stdout.readline())
        vllm = _vllm_of(guard)
        run.kill()
    wait_until(
        lambda: not processes.alive(guard) and not processes.alive(vllm), 60, lambda: "it was left behind"
    )
