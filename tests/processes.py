"""What runs below this process, by the kernel's account."""

import os
from pathlib import Path


def descendants(root: int | None = None) -> dict[int, str]:
    """Process id -> command line of every living descendant of `root`, by default of this process."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            children.setdefault(int(parent), []).append(int(stat.parent.name))
    found, queue = {}, [root or os.getpid()]
    while queue:
        for pid in children.get(queue.pop(), []):
            found[pid] = command(pid)
            queue.append(pid)
    return found


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def shared_memory(pid: int) -> set[str]:
    """The POSIX shared memory segments that a process has mapped."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {name for line in lines if (name := line.split()[-1]).startswith("/dev/shm/psm_")}
