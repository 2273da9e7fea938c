"""What runs on this machine, by the kernel's account."""

import contextlib
import os
from pathlib import Path


def mentioning(text: str) -> dict[int, str]:
    """Process id -> command line of every living process that has `text` in it, this one left out."""
    found = {pid: command(pid) for pid in _parents()}
    return {pid: line for pid, line in found.items() if text in line and pid != os.getpid()}


def descendants(root: int) -> dict[int, str]:
    """Process id -> command line of every living process below `root`."""
    parents = _parents()
    found: dict[int, str] = {}
    while new := [pid for pid, parent in parents.items() if parent in {root, *found} and pid not in found]:
        found |= {pid: command(pid) for pid in new}
    return found


def _parents() -> dict[int, int]:
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(stat.parent.name)] = int(parent)
    return parents


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def alive(pid: int) -> bool:
    return pid in _parents()


def shared_memory(pid: int) -> set[str]:
    """The POSIX shared memory segments that a process has mapped."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {name for line in lines if (name := line.split()[-1]).startswith("/dev/shm/psm_")}
