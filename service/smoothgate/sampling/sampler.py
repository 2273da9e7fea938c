"""Continuous batching of noise samples: threads that keep their devices full with samples of all requests.

Each thread owns one device (on a CPU, one share of its cores) and takes its batches from one queue. A ticket
first has its selection samples, whose mean gives the served direction t, then fresh certification samples,
which are scored against t; it hands out the direction as soon as it is known.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import structlog
import torch

from smoothgate import metrics
from smoothgate.errors import NotReady, SamplerFailed, SmoothgateError
from smoothgate.sampling.draw import Units
from smoothgate.sampling.forward import Forward, ScoredBatch
from smoothgate.sampling.noise import NoiseGenerator
from smoothgate.sampling.queue import Queue, SampleRange
from smoothgate.sampling.ticket import Ticket

log = structlog.get_logger("sampler")

# Where a batch costs what its samples cost, a small request is spread over the threads down to this.
_SMALLEST_SHARE = 8
# How much the latest batch counts in the throughput that waiting times are told from.
_RECENT = 0.05
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
        workers: one thread for each; all on devices of one type.
        batch_size: most noisy forwards in a batch.
        rate: noisy forwards per second to expect before any were drawn.
        one_shape: whether all canvases have one shape.
        batch_values: most canvas values (3 * H * W of each sample) in a batch; None: no limit.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        batch_size: int,
        *,
        rate: float = 100.0,
        one_shape: bool = True,
        batch_values: int | None = None,
    ) -> None:
        self.batch_size = batch_size
        self.samples_per_second = rate
        self._workers = workers
        self._forwards = [
            Forward(worker.units, worker.device, batch_size, one_shape=one_shape) for worker in workers
        ]
        costs_the_same = workers[0].device.type == "cuda" and one_shape
        self._queue = Queue(
            batch_size,
            len(workers),
            batch_size if costs_the_same else _SMALLEST_SHARE,
            batch_values=batch_values,
            begun=metrics.STAGE_SECONDS.labels("queue").observe,
            departed=metrics.SAMPLES_DROPPED.inc,
        )
        self._threads: list[threading.Thread | None] = [None] * len(workers)
        self._closing = False
        self._moved = time.monotonic()

    @property
    def noise(self) -> NoiseGenerator:
        """What all samples are drawn from."""
        return self._forwards[0].noise

    @property
    def alive(self) -> bool:
        """Whether all threads run."""
        return all(thread is not None and thread.is_alive() for thread in self._threads)

    @property
    def queued_samples(self) -> int:
        """Noisy forwards that wait to be drawn."""
        return len(self._queue)

    @property
    def queued_seconds(self) -> float:
        """How long those will take, at the throughput of the latest batches."""
        return self.queued_samples / self.samples_per_second

    @property
    def stalled_seconds(self) -> float:
        """How long nothing has come of what waits; 0 where nothing waits."""
        return time.monotonic() - self._moved if self.queued_samples else 0.0

    def start(self) -> None:
        """Start all threads, or those again that have died."""
        for number, thread in enumerate(self._threads):
            if thread is None or not thread.is_alive():
                name = f"sampler-{number}"
                thread = threading.Thread(target=self._run, args=(number,), name=name, daemon=True)
                self._threads[number] = thread
                thread.start()

    def close(self) -> None:
        """Stop the threads; tickets still waiting fail with NotReady."""
        self._closing = True
        self._queue.close()
        for thread in self._threads:
            if thread is not None:
                thread.join()
        self._fail(self._queue.clear(), NotReady(_CLOSING, code="draining"))

    def submit(self, ticket: Ticket) -> None:
        """Queue a ticket.

        Raises:
            NotReady: a thread is not running.
        """
        if self._closing or not self.alive:
            raise NotReady("The sampler is not running.", code="sampler_down", retry_after=1)
        if not self.queued_samples:
            self._moved = time.monotonic()
        self._queue.put(ticket)

    def _run(self, number: int) -> None:
        worker, forward = self._workers[number], self._forwards[number]
        if worker.device.type == "cpu":
            torch.set_num_threads(worker.threads)
        under_way: deque[ScoredBatch] = deque()
        batch: Sequence[SampleRange] | None = ()
        try:
            while True:
                batch = self._queue.take(worker.device, wait=not under_way)
                if batch is None:
                    break
                started = time.perf_counter()
                if batch and (scored := self._launch(forward, batch)):
                    under_way.append(scored)
                if under_way and (not batch or len(under_way) >= forward.depth):
                    self._account(under_way[0], started)
                    under_way.popleft()
        except BaseException:
            self._threads[number] = None  # dead from here on, whatever it still has to do
            metrics.SAMPLER_FAILURES.inc()
            self._fail(self._queue.clear(), SamplerFailed(_FAILED))
            self._fail(_waiting(batch, under_way), SamplerFailed(_FAILED))
            log.exception("sampler thread died", worker=number)
            raise
        self._fail(_waiting(batch, under_way), NotReady(_CLOSING, code="draining"))

    def _launch(self, forward: Forward, batch: Sequence[SampleRange]) -> ScoredBatch | None:
        try:
            return forward.launch(batch)
        except Exception:
            metrics.SAMPLER_FAILURES.inc()
            self._fail(_waiting(batch), SamplerFailed(_FAILED))
            log.exception("a batch failed", samples=sum(each.count for each in batch))
            return None

    def _account(self, scored: ScoredBatch, started: float) -> None:
        try:
            pieces = scored.fetch()
        except Exception:
            metrics.SAMPLER_FAILURES.inc()
            self._fail(_waiting(scored.batch), SamplerFailed(_FAILED))
            log.exception("a batch failed", samples=sum(each.count for each in scored.batch))
            return
        for ticket, first, scores in pieces:
            try:
                ticket.account(first, scores)
                ticket.expire()
            except SmoothgateError as error:
                ticket.fail(error)
        self._queue.wake()
        self._moved = time.monotonic()
        drawn = sum(each.count for each in scored.batch)
        seconds = time.perf_counter() - started
        rate = len(self._workers) * drawn / seconds
        self.samples_per_second += _RECENT * (rate - self.samples_per_second)
        metrics.SAMPLES.inc(drawn)
        metrics.BATCH_FILL.observe(drawn / self.batch_size)
        metrics.SAMPLING_SECONDS.inc(seconds / len(self._workers))

    @staticmethod
    def _fail(tickets: Sequence[Ticket], error: Exception) -> None:
        for ticket in tickets:
            ticket.fail(error)


def _waiting(batch: Sequence[SampleRange] | None, under_way: Iterable[ScoredBatch] = ()) -> list[Ticket]:
    """The tickets of batches that are not through, as far as they still wait for something."""
    slices = [*(batch or ()), *(each for scored in under_way for each in scored.batch)]
    return [each.ticket for each in slices if not each.ticket.over]
