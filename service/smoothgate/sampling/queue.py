"""What is drawn next: samples of all waiting jobs, packed into batches.

Requests share the device by start-time fair queueing (Goyal et al. 1996): each has a clock that its samples
move on, the one furthest behind is served next, and a newcomer starts where the one served last did. Who is
passed over falls behind all newcomers, so that none starves. Selection samples go before that, since answers
wait for them, but only in three batches of four.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch

from smoothgate.sampling.job import Job

# Samples that a request is given at a time: enough to keep the copies few, few enough to be fair.
_QUANTUM = 8
_FAIR_EVERY = 4


@dataclass(frozen=True, slots=True)
class Slice:
    """Consecutive samples of one job: numbers first .. first + count - 1."""

    job: Job
    first: int
    count: int


class Queue:
    """The waiting jobs.

    Args:
        batch_size: most samples in a batch.
        workers: threads that take batches. Where less waits than fills all their batches, it is spread over
            them.
        smallest: samples below which a batch is not made smaller for that; `batch_size` where every batch
            costs the same.
        departed: called with the samples that were not drawn, of a job whose client has left.
        values: of a canvas that `batch_size` was chosen for; None: all have the same size.
    """

    def __init__(
        self,
        batch_size: int,
        workers: int,
        smallest: int,
        departed: Callable[[int], None],
        values: int | None = None,
    ) -> None:
        self.batch_size = batch_size
        self._values = values
        self._workers = workers
        self._smallest = min(smallest, batch_size)
        self._departed = departed
        self._jobs: list[Job] = []
        self._clocks: dict[Hashable, int] = {}
        self._now = 0
        self._turn = 0
        self._closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        """Samples that wait to be drawn."""
        with self._changed:
            return sum(job.remaining for job in self._jobs)

    def put(self, job: Job) -> None:
        """Queue a job."""
        with self._changed:
            self._clocks.setdefault(job.request, self._now)
            self._jobs.append(job)
            self._changed.notify_all()

    def wake(self) -> None:
        """Look again: a job has got its t, or has ended."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Whoever waits for a batch gets none."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def clear(self) -> list[Job]:
        """Forget all jobs, and return them."""
        with self._changed:
            jobs, self._jobs = self._jobs, []
            self._clocks.clear()
            return jobs

    def take(self, device: torch.device, *, wait: bool) -> Sequence[Slice] | None:
        """The next batch for a device, of canvases of one size; empty where there is none and `wait` is
        false; None once closed.
        """
        with self._changed:
            while not self._closed:
                self._sweep()
                batch = self._pack(device)
                if batch or not wait:
                    return batch
                self._changed.wait()
            return None

    def _sweep(self) -> None:
        for job in self._jobs:
            job.expire()
            if job.evidence.cancelled():
                self._departed(job.n_select + job.budget - job.packed)
        self._jobs = [job for job in self._jobs if job.remaining]
        waiting = {job.request for job in self._jobs}
        self._clocks = {request: clock for request, clock in self._clocks.items() if request in waiting}

    def _pack(self, device: torch.device) -> list[Slice]:
        waiting = [job for job in self._jobs if job.available(device)]
        if not waiting:
            return []
        self._turn += 1
        selecting = [job for job in waiting if job.selecting] if self._turn % _FAIR_EVERY else []
        first = min(selecting or waiting, key=lambda job: self._clocks[job.request])
        waiting = [job for job in waiting if job.form == first.form]
        selecting = [job for job in selecting if job.form == first.form]
        room = self._room(sum(job.available(device) for job in waiting), first.x.numel())
        counts: dict[Job, int] = {}
        for jobs in (selecting, waiting):
            room -= self._share(jobs, room, device, counts)
        return [Slice(job, job.packed - count, count) for job, count in counts.items()]

    def _room(self, available: int, values: int) -> int:
        most = self.batch_size
        if self._values is not None:  # of larger canvases fewer, so that a batch needs no more memory
            most = min(most, max(1, most * self._values // values))
        spread = -(-available // self._workers)
        return min(most, max(spread, self._smallest))

    def _share(self, jobs: Sequence[Job], room: int, device: torch.device, counts: dict[Job, int]) -> int:
        """Give up to `room` samples to jobs, by their requests' clocks; returns how many."""
        given = 0
        heap = [(self._clocks[job.request], order, job) for order, job in enumerate(jobs)]
        heapq.heapify(heap)
        while given < room and heap:
            clock, order, job = heapq.heappop(heap)
            if clock < self._clocks[job.request]:  # another image of this request was served meanwhile
                heapq.heappush(heap, (self._clocks[job.request], order, job))
                continue
            count = min(_QUANTUM, room - given, job.available(device))
            if count:
                self._now = max(self._now, clock)
                if job.selecting:
                    job.home = device
                if job.begun is None:
                    job.begun = time.perf_counter()
                job.packed += count
                given += count
                counts[job] = counts.get(job, 0) + count
                self._clocks[job.request] += count
                heapq.heappush(heap, (self._clocks[job.request], order, job))
        return given
