"""An error for every call of the service's that blocks an event loop.

A call is the service's if one of the frames of its stack is. What takes long without a call to the system,
such as arithmetic, goes unnoticed.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from blockbuster import blockbuster_ctx

from smoothgate import metrics

# Functions below which a call may block, because it is short and rare.
_ALLOWED = {
    # The folder of the socket is made and removed once for each start of vLLM.
    "smoothgate/engine/local_engine.py": ("__init__", "start", "stop", "_run_once"),
    # The file of the accounts is asked whether it has changed, and is read again when it has. It is small.
    "smoothgate/gate/accounts.py": ("_stamp", "load"),
    # A service composes its parts before it has a loop. A test that composes some may have one already.
    "smoothgate/playground/page_app.py": ("create_app",),
    "smoothgate/gate/canary.py": ("__init__",),
    # Lines of the log are written, and tracebacks in it quote source files.
    "logging/__init__.py": ("emit",),
    "rich/traceback.py": ("__rich_console__",),
    # Figures of the process are read from /proc.
    "prometheus_client/process_collector.py": ("collect",),
    # An error of FastAPI's about a request names the line of the route.
    "fastapi/routing.py": ("_extract_endpoint_context",),
    # The first answer with a file reads the system's table of types.
    "mimetypes.py": ("init",),
}


@contextmanager
def not_blocked() -> Iterator[None]:
    """Raise `blockbuster.BlockingError` in the block where a call would block a running event loop."""
    following = [function.__name__ for function in os.supports_follow_symlinks]
    with blockbuster_ctx("smoothgate", excluded_modules=["smoothgate_lab"]) as calls:
        # Functions of os are replaced, and shutil looks up in this set what they can do.
        os.supports_follow_symlinks |= {getattr(os, name) for name in following}
        for call in calls.functions.values():
            for file, functions in _ALLOWED.items():
                call.can_block_in(file, functions)
        yield


@contextmanager
def cpu_between_looks(pause: float = 0.15) -> Iterator[list[float]]:
    """CPU seconds that the loops of services in this process took between two looks at their lag, in order.

    A service looks every 50 ms, or when its loop is free again. Other programs cannot make a value larger.
    The list is complete after the block.
    """
    found: list[float] = []
    latest: dict[int, float] = {}
    observe = metrics.EVENT_LOOP_LAG_SECONDS.observe

    def looked(amount: float, exemplar: dict[str, str] | None = None) -> None:
        thread, now = threading.get_ident(), time.thread_time()
        if thread in latest:
            found.append(now - latest[thread])
        latest[thread] = now
        observe(amount, exemplar)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics.EVENT_LOOP_LAG_SECONDS, "observe", looked)
        time.sleep(pause)
        yield found
        time.sleep(pause)
