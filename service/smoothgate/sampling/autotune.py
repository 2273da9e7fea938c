"""Batch size and threads for the device at hand, chosen by measuring it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import structlog
import torch
from torch import Tensor

from smoothgate.errors import SmoothgateError
from smoothgate.sampling.device import Device, seconds_between, wait_for
from smoothgate.sampling.draw import Units

log = structlog.get_logger("sampler")

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

    Raises:
        SmoothgateError: code `no_memory`: there is no room for the smallest batch.
    """
    total = threads or cores()
    divisions = sorted({(1, total), (total, 1)}) if device.type == "cpu" else [(1, 1)]
    sizes = (batch_size,) if batch_size else _SIZES[device.type]
    measured = [
        Tuning(workers, threads_each, size, speed)
        for workers, threads_each in divisions
        for size, speed in _measure(units, shape, device, workers, threads_each, sizes)
    ]
    if not measured:
        raise SmoothgateError(
            f"The memory of {device} has no room for a batch of {sizes[0]} noisy forwards: set a smaller "
            "SMOOTHGATE_BATCH_SIZE, or leave more memory to the encoder.",
            code="no_memory",
        )
    return smallest_near_best(measured)


def smallest_near_best(measured: Sequence[Tuning]) -> Tuning:
    """Among those whose throughput is near the best, the one with the fewest samples in progress."""
    best = max(each.samples_per_second for each in measured)
    good = [each for each in measured if each.samples_per_second >= _GOOD_ENOUGH * best]
    return min(good, key=lambda each: (each.batch_size * each.workers, -each.samples_per_second))


def _measure(
    units: Units, shape: Sequence[int], device: torch.device, workers: int, threads: int, sizes: Sequence[int]
) -> Iterator[tuple[int, float]]:
    """(batch size, samples per second of all workers) while the workers run at the same time.

    Ends with the first size that memory has no room for.
    """
    for size in sizes:
        try:
            z = torch.rand((size, *shape), device=device)
            sigma = torch.full((size,), 0.1, device=device)
            work = partial(_seconds, units, z, sigma, device, threads)
            with ThreadPoolExecutor(workers) as pool:
                seconds = [each.result() for each in [pool.submit(work) for _ in range(workers)]]
        except torch.OutOfMemoryError:
            log.warning("a batch does not fit into the memory of the device", samples=size)
            return
        finally:
            if device.type == "cuda":
                torch.cuda.empty_cache()
        yield size, sum(_REPEATS * size / each for each in seconds)


@torch.inference_mode()
def _seconds(units: Units, z: Tensor, sigma: Tensor, place: torch.device, threads: int) -> float:
    """Time of some batches in a thread of their own."""
    device = Device(place, threads)
    device.enter()
    units(z, sigma)
    began = device.mark()
    for _ in range(_REPEATS):
        units(z, sigma)
    ended = device.mark()
    wait_for(ended)
    return seconds_between(began, ended)
