"""Resident memory, by the kernel's account."""

import resource
from contextlib import suppress
from pathlib import Path

from tests import processes


def resident(pid: int) -> dict[str, int]:
    """Bytes of the service, and of its vLLM: all processes below it, summed."""
    return {"service": _of(pid), "engine": sum(map(_of, processes.descendants(pid)))}


def _of(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    return 0
