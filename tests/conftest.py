"""What all tests share: who runs where, one vLLM, and the whole service."""

import os

# What commands print is not coloured, and has the width that a test names. Workers inherit xdist's 80
# columns, which a console that is made under them keeps.
os.environ["TTY_COMPATIBLE"] = "0"
os.environ.pop("FORCE_COLOR", None)
os.environ.pop("COLUMNS", None)
os.environ.pop("LINES", None)

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

import smoothgate.compat.repaired_imports  # noqa: F401, before any test imports transformers
from smoothgate import logs
from tests import event_loop, shared_vllm
from tests.duration_summary import DurationSummary
from tests.quick_gate import (  # noqa: F401, fixtures
    demo_encoder,
    open_gate,
    quick_gate,
    shared_fake_vllm,
    shared_quick_gate,
    vllm,
)
from tests.whole_service import gate, shared_gate, supervising_gate  # noqa: F401, fixtures

# No service that a test starts measures what suits this machine, and none takes much memory for its vLLM.
os.environ |= {
    "SMOOTHGATE_THREADS": "1",
    "SMOOTHGATE_BATCH_SIZE": "32",
    "SMOOTHGATE_ENGINE_KV_CACHE_GIB": str(shared_vllm.KV_CACHE_GIB),
}

# Folders that begin first, since they take long and start a vLLM of their own, and folders that begin last,
# since they wait for the shared vLLM: what has long modules before what has short ones.
_FIRST = ("deploy", "families", "engine")
_LAST = ("playground", "http", "extproc", "conformance", "fuzz")
# Modules around the stack of tests/deploy/conftest.py.
_STACK = ("test_dashboard.py", "test_envoy.py", "test_prometheus.py")
# What mostly waits, for alerts, hung clients and killed engines, has the third worker for itself until it is
# done: it takes little from the two that compute.
_WAITING = (
    "stack",
    "tests/engine/test_local_engine.py",
    "tests/extproc/test_envoy.py",
    "tests/http/test_operation.py",
)
_WAITING_WORKER = "gw2"
# A long test that names no time of its own fails after this many seconds. Other tests run beside it.
_LONG_SECONDS = 1800


class _ByFixture(LoadScopeScheduling):
    """Runs the tests of a module in one worker, since they share what is costly to make.

    What the stack of a deployment is made for runs in one worker too. In tests/families every family has a
    vLLM or an encoder of its own, so that each may run in another worker. xdist's own groups
    (`--dist=loadgroup`) are lost on pytest 9.2, whose items do not take the new name that xdist 3.8 gives
    them. Where there is a third worker, it runs what mostly waits first, and no other worker does.
    """

    def _assign_work_unit(self, node: WorkerController) -> None:
        if any(each.gateway.id == _WAITING_WORKER for each in self.nodes):
            waits = node.gateway.id == _WAITING_WORKER
            scope = next((s for s in self.workqueue if (s in _WAITING) == waits), None)
            if scope is None and not waits:
                node.shutdown()
                return
            if scope is not None:
                self.workqueue.move_to_end(scope, last=False)
        super()._assign_work_unit(node)

    def _split_scope(self, nodeid: str) -> str:
        path, _, name = nodeid.partition("::")
        if Path(path).name in _STACK:
            return "stack"
        if _folder(nodeid) == "families":
            return f"{path}[{name.partition('[')[2]}"
        return path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return _ByFixture(config, log)


def pytest_configure(config: pytest.Config) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        config.pluginmanager.register(DurationSummary())
        stack = ExitStack()
        stack.enter_context(shared_vllm.available())
        config.add_cleanup(stack.close)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("long") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_LONG_SECONDS))
    items.sort(key=lambda item: _turn(_folder(item.nodeid)))


def pytest_collection_finish(session: pytest.Session) -> None:
    if not session.config.option.collectonly and any(
        "demo_vllm" in getattr(item, "fixturenames", ()) for item in session.items
    ):
        shared_vllm.start()


def _folder(nodeid: str) -> str:
    return Path(nodeid.partition("::")[0]).parent.name


def _turn(folder: str) -> int:
    if folder in _FIRST:
        return _FIRST.index(folder)
    return len(_FIRST) + (_LAST.index(folder) + 1 if folder in _LAST else 0)


@pytest.fixture(scope="session")
def demo_vllm() -> str:
    """The address of the vLLM that all tests share, ready. Tests must not stop it or make it hang."""
    return shared_vllm.url()


@pytest.fixture(autouse=True, scope="module")
def _log_as_before() -> Iterator[None]:
    """Commands set up the log of their process: a worker runs many modules."""
    root = logging.getLogger()
    level, handlers, processors = root.level, list(root.handlers), list(logs.PROCESSORS)
    yield
    root.setLevel(level)
    root.handlers = handlers
    logs.PROCESSORS[:] = processors


@pytest.fixture(autouse=True, scope="session")
def _no_blocked_event_loop() -> Iterator[None]:
    with event_loop.not_blocked():
        yield
