"""What runs on this machine, by the kernel's account."""

from contextlib import suppress
from pathlib import Path

import psutil


def mentioning(text: str) -> dict[int, str]:
    """Process id -> command line of every living process that has `text` in it, this one left out."""
    this = psutil.Process()
    found = {each.pid: command(each.pid) for each in psutil.process_iter() if each != this}
    return {pid: line for pid, line in found.items() if text in line}


def descendants(root: int, text: str = "") -> dict[int, str]:
    """Process id -> command line of every living process below `root` that has `text` in it."""
    with suppress(psutil.NoSuchProcess):
        below = psutil.Process(root).children(recursive=True)
        found = {each.pid: command(each.pid) for each in below if alive(each.pid)}
        return {pid: line for pid, line in found.items() if text in line}
    return {}


def command(pid: int) -> str:
    """The command line of a process; empty after its end."""
    with suppress(psutil.NoSuchProcess):
        return " ".join(psutil.Process(pid).cmdline()).strip()
    return ""


def alive(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def resident(pid: int) -> int:
    """Bytes of a process in memory; 0 after its end."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).memory_info().rss
    return 0


def shared_memory(pid: int) -> set[str]:
    """The POSIX shared memory segments that a process has mapped."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {name for line in lines if (name := line.split()[-1]).startswith("/dev/shm/psm_")}
