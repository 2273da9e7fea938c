"""Runs a command and leaves no process of it behind, whichever process dies first.

    python -I -S guard.py COMMAND [ARGUMENT...]

vLLM is a tree of processes that outlives its root: after a SIGKILL of the API server, engine core and workers
keep their memory for ever. The guard is the root's parent and, on Linux, the reaper of all its descendants.
When the command exits, the guard kills the descendants that are left. When the guard's standard input closes,
the service has ended, and the guard kills everything. It passes SIGTERM on to the command. Its exit status is
the command's, or 128 + signal as in a shell.

It runs by path and imports only the standard library, so that it starts in milliseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
TRACKER_SECONDS = 3.0


def main() -> int:
    """Run the command to its end, then kill what is left of it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)  # noqa: S603
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    threading.Thread(target=_end_with_parent, args=(child,), daemon=True).start()
    status = child.wait()
    _sweep()
    return status if status >= 0 else 128 - status


def _end_with_parent(child: subprocess.Popen[bytes]) -> None:
    os.read(0, 1)  # returns when the pipe closes; sys.stdin's lock would block the interpreter's exit
    child.kill()


def _sweep() -> None:
    """Kill all descendants. None is left on return.

    multiprocessing's resource tracker ends by itself after the last of the others. It unlinks the shared
    memory that they left, so it gets some time to do so.
    """
    tracker_deadline = time.monotonic() + TRACKER_SECONDS
    with contextlib.suppress(OSError):  # ChildProcessError: none is left
        while True:
            if os.waitpid(-1, os.WNOHANG) != (0, 0):
                continue
            for pid in _children():
                if not _is_tracker(pid) or time.monotonic() > tracker_deadline:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)


def _children() -> list[int]:
    listing = Path(f"/proc/self/task/{threading.main_thread().native_id}/children")
    return [int(pid) for pid in listing.read_text().split()]


def _is_tracker(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"multiprocessing.resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


if __name__ == "__main__":
    sys.exit(main())
