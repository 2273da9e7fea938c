"""Continuous batching of noise samples: threads that fill the batches of their devices from all requests.

Each thread owns one device, or one share of the cores of a CPU, and takes its batches from one queue. A
ticket's selection samples are drawn first, and their mean gives the served direction t. Fresh certification
samples are then scored against t. The direction is available as soon as it is known.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from smoothgate import metrics
from smoothgate.errors import NotReady, SamplerFailed
from smoothgate.logs import get_logger
from smoothgate.sampling.base_ticket import BaseTicket
from smoothgate.sampling.device import Device
from smoothgate.sampling.draw import Units
from smoothgate.sampling.forward import Forward, LaunchedBatch
from smoothgate.sampling.queue import Queue, SampleRange
from smoothgate.sampling.rehearsal import rehearse
from smoothgate.sampling.relay_ticket import RelayTicket
from smoothgate.vision import Canvas

log = get_logger("sampler")

# If the cost of a batch grows with its samples, a small request is spread over threads in shares of this
# size.
_SMALLEST_SHARE = 8
# Weight of the latest batch in the throughput from which waiting times are estimated.
_RECENT = 0.05
#: Batches that fail one after the other before the device counts as lost. After some errors of CUDA, every
#: call fails until the process ends.
LOST_AFTER = 3
_FAILED = "The sampler failed; the request was not completed."
_CLOSING = "The service is shutting down."


@dataclass(frozen=True, slots=True)
class Worker:
    """What one sampler thread works with.

    Attributes:
        units: the encoder.
        device: where the encoder is.
        threads: CPU threads that the thread may use.
    """

    units: Units
    device: torch.device
    threads: int = 1


class Sampler:
    """All threads that draw samples, and their queue.

    Args:
        workers: one for each thread. All devices are of one type.
        batch_size: most noisy forwards in a batch.
        rate: work per second to expect before any was done. Work is counted in noisy forwards of a canvas of
            typical size.
        one_shape: whether all canvases have one shape.
        typical: a canvas of typical size, whose samples are the unit of work. Each thread warms up with it
            before it takes a batch. None: all canvases have one size, and nothing is warmed up.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        batch_size: int,
        *,
        rate: float = 100.0,
        one_shape: bool = True,
        typical: Canvas | None = None,
    ) -> None:
        self.batch_size = batch_size
        self.work_per_second = rate
        self._workers = workers
        self._devices = [Device(worker.device, worker.threads) for worker in workers]
        self._forwards = [
            Forward(worker.units, device, batch_size, one_shape=one_shape)
            for worker, device in zip(workers, self._devices, strict=True)
        ]
        costs_the_same = workers[0].device.type == "cuda" and one_shape
        self._queue = Queue(
            batch_size,
            len(workers),
            batch_size if costs_the_same else _SMALLEST_SHARE,
            typical_values=None if typical is None else typical.x.numel(),
            begun=metrics.STAGE_SECONDS.labels("queue").observe,
            departed=metrics.WORK_DROPPED.inc,
        )
        self._threads: list[threading.Thread | None] = [None] * len(workers)
        self._typical = typical
        self._warm = [typical is None] * len(workers)
        self._closing = False
        self._last_progress = time.monotonic()
        # What each thread has taken and not answered yet.
        self._held: list[deque[Sequence[SampleRange]]] = [deque() for _ in workers]
        self._failed_in_a_row = 0

    @property
    def alive(self) -> bool:
        """Whether all threads run."""
        return all(thread is not None and thread.is_alive() for thread in self._threads)

    @property
    def warm(self) -> bool:
        """Whether all threads have warmed up."""
        return all(self._warm)

    @property
    def device_lost(self) -> bool:
        """Whether so many batches in a row have failed that only a new process can help."""
        return self._failed_in_a_row >= LOST_AFTER

    @property
    def queued_samples(self) -> int:
        """Number of samples that wait to be drawn."""
        return len(self._queue)

    @property
    def queued_work(self) -> float:
        """Work that waits to be done."""
        return self._queue.work

    @property
    def queued_seconds(self) -> float:
        """How long the waiting work will take at the throughput of the latest batches."""
        return self.queued_work / self.work_per_second

    def work(self, values: int, samples: int) -> int:
        """Work of samples of a canvas of so many values (3 * H * W), rounded up."""
        return math.ceil(samples * self._queue.size(values))

    @property
    def stalled_seconds(self) -> float:
        """Seconds without progress: since the last batch, or since work came to an idle sampler; 0 if none
        waits.
        """
        return time.monotonic() - self._last_progress if self._busy else 0.0

    @property
    def _busy(self) -> bool:
        """Whether there is work that could be done now. What waits for its client's word is none."""
        return any(self._held) or self._queue.has_work

    def start(self) -> None:
        """Start all threads that are not running."""
        for number, thread in enumerate(self._threads):
            if thread is None or not thread.is_alive():
                name = f"sampler-{number}"
                thread = threading.Thread(target=self._run, args=(number,), name=name, daemon=True)
                self._threads[number] = thread
                thread.start()

    def close(self, seconds: float = 10.0) -> None:
        """Stop the threads. Tickets that still wait fail with NotReady.

        Args:
            seconds: the longest wait for the threads. One that hangs is left: it ends with the process.
        """
        self._closing = True
        self._queue.close()
        ends = time.monotonic() + seconds
        for number, thread in enumerate(self._threads):
            if thread is not None:
                thread.join(max(0.0, ends - time.monotonic()))
                if thread.is_alive():
                    log.error("a sampler thread hangs and is left", worker=number)
        self._fail(self._queue.clear(), NotReady(_CLOSING, code="draining"))
        for held in self._held:
            self._fail(_waiting(tuple(held)), NotReady(_CLOSING, code="draining"))

    def submit(self, ticket: BaseTicket) -> None:
        """Queue a ticket.

        Raises:
            NotReady: a thread is not running.
        """
        if self._closing or not self.alive:
            raise NotReady("The sampler is not running.", code="sampler_down", retry_after=1)
        self._work_comes()
        self._queue.put(ticket)

    def allow(self, ticket: RelayTicket, samples: int) -> None:
        """Let so many samples of a ticket be drawn in all."""
        self._work_comes()
        ticket.allow(samples)
        self._queue.wake()

    def wake(self) -> None:
        """Look at the queue again: a ticket has ended."""
        self._queue.wake()

    def _work_comes(self) -> None:
        if not self._busy:
            self._last_progress = time.monotonic()

    def _run(self, number: int) -> None:
        worker, forward = self._workers[number], self._forwards[number]
        held = self._held[number]
        held.clear()
        in_progress: deque[LaunchedBatch] = deque()
        try:
            self._devices[number].enter()
            if self._typical is not None:
                self._warm[number] = False
                rehearse(forward, self._typical, self.batch_size, 1)
                self._warm[number] = True
            while (batch := self._queue.take(worker.device, wait=not in_progress)) is not None:
                if batch:
                    held.append(batch)
                    if launched := self._launch(forward, batch):
                        in_progress.append(launched)
                    else:
                        held.pop()
                if in_progress and (not batch or len(in_progress) >= forward.depth):
                    self._account(in_progress.popleft())
                    held.popleft()
        except BaseException:
            self._threads[number] = None  # counts as dead from here on
            metrics.SAMPLER_FAILURES.inc()
            lost = {*self._queue.clear(), *_waiting(held)}
            metrics.FAILED_IMAGES.labels("thread").inc(len(lost))
            self._fail(lost, SamplerFailed(_FAILED))
            log.exception("sampler thread died", worker=number)
            raise
        self._fail(_waiting(held), NotReady(_CLOSING, code="draining"))

    def _launch(self, forward: Forward, batch: Sequence[SampleRange]) -> LaunchedBatch | None:
        try:
            return forward.launch(batch)
        except Exception:
            self._batch_failed(batch)
            return None

    def _account(self, launched: LaunchedBatch) -> None:
        try:
            pieces = launched.fetch()
        except Exception:
            self._batch_failed(launched.batch)
            return
        drawn = sum(each.count for each in launched.batch)
        size = self._queue.size(launched.batch[0].ticket.x.numel())
        work, seconds = drawn * size, launched.seconds
        self._measured(launched.rows * size, seconds)
        # Before the tickets are told: whoever has an answer finds its samples counted.
        metrics.SAMPLES.inc(drawn)
        metrics.WORK.inc(work)
        metrics.BATCH_FILL.observe(drawn / self.batch_size)
        metrics.SAMPLING_SECONDS.inc(seconds / len(self._workers))
        for ticket, first, values in pieces:
            with ticket.failing_alone("scores"):
                ticket.account(first, values)
                ticket.expire()
        self._failed_in_a_row = 0
        self._queue.wake()
        self._last_progress = time.monotonic()

    def _measured(self, work: float, seconds: float) -> None:
        """Correct the throughput by a batch. One that is far from full is slower for its size than those of a
        queue that waits will be, so it can only show that the device is faster.
        """
        rate = len(self._workers) * work / max(seconds, 1e-9)
        if rate > self.work_per_second or 2 * work >= self.batch_size:
            self.work_per_second += _RECENT * (rate - self.work_per_second)

    def _batch_failed(self, batch: Sequence[SampleRange]) -> None:
        metrics.SAMPLER_FAILURES.inc()
        lost = {*_waiting([batch])}
        metrics.FAILED_IMAGES.labels("batch").inc(len(lost))
        # Memory that runs out comes back.
        self._failed_in_a_row += not isinstance(sys.exc_info()[1], torch.OutOfMemoryError)
        self._fail(lost, SamplerFailed(_FAILED))
        log.exception("a batch failed", samples=sum(each.count for each in batch))

    @staticmethod
    def _fail(tickets: Iterable[BaseTicket], error: Exception) -> None:
        for ticket in tickets:
            ticket.fail(error)


def _waiting(batches: Iterable[Sequence[SampleRange]]) -> list[BaseTicket]:
    """The tickets of unfinished batches that still wait for something."""
    return [each.ticket for batch in batches for each in batch if not each.ticket.over]
