"""What all tests share: the machine's cores and memory, who runs where, and the whole service."""

import os

# Several processes share the cores, and threads that spin while they wait would take them from each other;
# a vLLM that takes every core would keep its own API server from answering.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "1")

from pathlib import Path
from typing import Any

import pytest
import torch
from xdist.scheduler import LoadScopeScheduling

import smoothgate.compat.repaired_imports  # noqa: F401, before any test imports transformers
from tests.quick_gate import (  # noqa: F401, fixtures
    demo_encoder,
    open_gate,
    quick_gate,
    shared_fake_vllm,
    shared_quick_gate,
    vllm,
)
from tests.whole_service import gate, shared_gate  # noqa: F401, fixtures

# Several vLLMs share the memory: each takes all of its cache at the start.
KV_CACHE_GIB = 0.25
os.environ["SMOOTHGATE_ENGINE_KV_CACHE_GIB"] = str(KV_CACHE_GIB)

# Folders whose tests share a vLLM, and what they are called together.
_TOGETHER = {
    "http": "gate",
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
