"""Batch size and threads for the device at hand, chosen by measuring it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from smoothgate.sampling.draw import Units

# On a CPU, batches of 64 are not measurably faster, and a small request waits twice as long behind a large
# one.
_SIZES = {"cpu": (8, 16, 32), "cuda": (32, 64, 128, 256)}
# A smaller batch gives a new request its turn sooner. That is worth this loss of throughput.
_GOOD_ENOUGH = 0.97
_REPEATS = 3


@dataclass(frozen=True, slots=True)
class Tuning:
    """One way to use a device, and its measured speed.

    Attributes:
        workers: threads that draw batches at the same time. Only on a CPU there is more than one.
        threads: CPU threads of each worker.
        batch_size: noisy forwards per batch.
        samples_per_second: noisy forwards per second, of all workers together.
    """

    workers: int
    threads: int
    batch_size: int
    samples_per_second: float


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def autotune(
    units: Units,
    shape: Sequence[int],
    device: torch.device,
    *,
    threads: int = 0,
    batch_size: int = 0,
) -> Tuning:
    """Measure throughput, and choose the smallest batch whose throughput is near the best.

    Args:
        units: the encoder.
        shape: (3, H, W) of a canvas.
        device: where the encoder is.
        threads: total number of CPU threads; 0: one per core.
        batch_size: the only size to measure; 0: several.
    """
    total = threads or cores()
    divisions = sorted({(1, total), (total, 1)}) if device.type == "cpu" else [(1, 1)]
    sizes = (batch_size,) if batch_size else _SIZES[device.type]
    measured = [
        Tuning(workers, threads_each, size, speed)
        for workers, threads_each in divisions
        for size, speed in _measure(units, shape, device, workers, threads_each, sizes)
    ]
    return smallest_near_best(measured)


def smallest_near_best(measured: Sequence[Tuning]) -> Tuning:
    """Among those whose throughput is near the best, the one with the fewest samples in progress."""
    best = max(each.samples_per_second for each in measured)
    good = [each for each in measured if each.samples_per_second >= _GOOD_ENOUGH * best]
    return min(good, key=lambda each: (each.batch_size * each.workers, -each.samples_per_second))


def _measure(
    units: Units, shape: Sequence[int], device: torch.device, workers: int, threads: int, sizes: Sequence[int]
) -> Iterator[tuple[int, float]]:
    """(batch size, samples per second of all workers) while the workers run at the same time."""
    for size in sizes:
        z = torch.rand((size, *shape), device=device)
        sigma = torch.full((size,), 0.1, device=device)
        seconds = [0.0] * workers

        def work(number: int, z: Tensor = z, sigma: Tensor = sigma, seconds: list[float] = seconds) -> None:
            if device.type == "cpu":
                torch.set_num_threads(threads)
            with torch.inference_mode():
                units(z, sigma)
                _wait(device)
                started = time.perf_counter()
                for _ in range(_REPEATS):
                    units(z, sigma)
                _wait(device)
            seconds[number] = time.perf_counter() - started

        running = [threading.Thread(target=work, args=(number,)) for number in range(workers)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        yield size, sum(_REPEATS * size / each for each in seconds)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
