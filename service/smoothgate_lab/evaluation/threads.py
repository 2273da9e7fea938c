"""Pictures in parallel on a CPU. One core for each is faster than all cores for one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def one_core_each(count: int, enter: Callable[[], None] = lambda: None) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads with one core each. Work that has not begun when the block ends is dropped.

    Args:
        count: number of threads.
        enter: called by each thread when it starts.
    """

    def begin() -> None:
        torch.set_num_threads(1)
        enter()

    pool = ThreadPoolExecutor(count, initializer=begin)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(count)  # torch may have taken the 1 for the whole process
