"""Batch size and threads for the device at hand, chosen by measuring it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from smoothgate.errors import SmoothgateError
from smoothgate.logs import get_logger
from smoothgate.sampling.device import Device
from smoothgate.sampling.draw import Units
from smoothgate.sampling.forward import Forward
from smoothgate.sampling.rehearsal import rehearse
from smoothgate.vision import Canvas

log = get_logger("sampler")

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
    canvas: Canvas,
    device: torch.device,
    *,
    one_shape: bool = True,
    threads: int = 0,
    batch_size: int = 0,
) -> Tuning:
    """Measure throughput, and choose the smallest batch whose throughput is near the best.

    What is measured is what is served: noise, the compiled forward where there is one, and the scores.

    Args:
        units: the encoder.
        canvas: of typical size.
        device: where the encoder is.
        one_shape: whether all canvases have one shape.
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
        for size, speed in _measure(units, canvas, device, one_shape, workers, threads_each, sizes)
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
    units: Units,
    canvas: Canvas,
    place: torch.device,
    one_shape: bool,
    workers: int,
    threads: int,
    sizes: Sequence[int],
) -> Iterator[tuple[int, float]]:
    """(batch size, samples per second of all workers) while the workers run at the same time.

    Ends with the first size that memory has no room for.
    """

    def work(size: int) -> float | None:
        """Seconds in a thread of its own; None where memory has no room for such a batch."""
        device = Device(place, threads)
        device.enter()
        forward = Forward(units, device, size, one_shape=one_shape)
        seconds = rehearse(forward, canvas, size, _REPEATS)
        return None if forward.halved else seconds

    for size in sizes:
        try:
            with ThreadPoolExecutor(workers) as pool:
                seconds = [each.result() for each in [pool.submit(work, size) for _ in range(workers)]]
        except torch.OutOfMemoryError:
            return
        finally:
            if place.type == "cuda":
                torch.cuda.empty_cache()
        if None in seconds:
            return
        yield size, sum(_REPEATS * size / each for each in seconds if each is not None)
