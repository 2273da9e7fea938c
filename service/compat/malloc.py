"""glibc's allocator in a process with many threads."""

from __future__ import annotations

import ctypes

_M_ARENA_MAX = -8  # malloc.h


def share_arenas(most: int = 2) -> bool:
    """Let all threads allocate from at most so many arenas; call it before there are threads.

    glibc gives each of some dozen threads an arena of its own. Sampler, decoders and event loop free each
    other's tensors, the holes are kept, and memory grows for a quarter of an hour as if it leaked.

    Returns:
        Whether the allocator does so: another than glibc's may not.
    """
    try:
        return bool(ctypes.CDLL(None).mallopt(_M_ARENA_MAX, most))
    except (AttributeError, OSError):
        return False
