"""Fixtures that several test packages share. Each session starts one vLLM of the service's own kind."""

import os

# Several processes share the cores, and threads that spin while they wait would take them from each other;
# a vLLM that takes every core would keep its own API server from answering.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "1")

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from xdist.scheduler import LoadScopeScheduling

from service.engine import LocalEngine
from tests import checkpoints, processes
from tests.gate import gate, shared_gate  # noqa: F401, fixtures

MODEL_NAME = "tiny"


# Folders whose tests share a vLLM, and what they are called together.
_TOGETHER = {
    "api": "gate",
    "conformance": "gate",
    "fuzz": "gate",
    "playground": "gate",
    "deploy": "deploy",
    "engine": "engine",
    "vision": "vision",
    "families": "families",
}


class _ByFolder(LoadScopeScheduling):
    """Runs what shares a vLLM in one worker, and the rest wherever there is room.

    xdist's own groups (`--dist=loadgroup`) are lost on pytest 9.2, whose items do not take the new name that
    xdist 3.8 gives them.
    """

    def _split_scope(self, nodeid: str) -> str:
        folder = Path(nodeid.partition("::")[0]).parent.name
        return _TOGETHER.get(folder, nodeid)


if "PYTEST_XDIST_WORKER" in os.environ:
    # Two workers with as many threads each as there are cores would mostly wait for each other.
    torch.set_num_threads(1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return _ByFolder(config, log)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaVA with a CLIP tower."""
    return checkpoints.build(tmp_path_factory.mktemp("checkpoint"))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_engine(tiny_checkpoint: Path) -> AsyncIterator[LocalEngine]:
    """A real vLLM on the tiny checkpoint. Tests may kill it, so they take it through `engine`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXX", "/bin/false")  # a container need not have a compiler
        engine = LocalEngine(
            str(tiny_checkpoint),
            served_model_name=MODEL_NAME,
            dtype="float32",
            max_model_len=checkpoints.CONTEXT,
        )
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()
    assert not processes.mentioning(str(engine.socket))
    assert not engine.socket.parent.exists()


@pytest_asyncio.fixture(loop_scope="session")
async def engine(shared_engine: LocalEngine) -> LocalEngine:
    await shared_engine.wait_ready()
    return shared_engine
