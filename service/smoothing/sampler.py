"""Continuous batching of noise samples: one thread owns the device and keeps it full.

The unit of work is one noisy forward. Samples of all waiting jobs are packed into batches of one size; each
result is added to its job's running sums, so that a job's memory does not grow with its samples. A job first
draws its selection samples, whose mean gives the served direction t, then fresh certification samples, which
are scored against t; it hands out the direction as soon as it is known.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog
import torch
from torch import Tensor

from service import metrics
from service.certify.statement import Terms
from service.certify.stopping import StoppingRule, StopReason
from service.errors import NotReady, SamplerFailed, SmoothgateError, Unacceptable
from service.smoothing import noise

log = structlog.get_logger("sampler")

Units = Callable[[Tensor, Tensor], Tensor]
# The sum of unit vectors below which no direction can be told from rounding.
_SHORTEST = 1e-3


@dataclass(frozen=True, slots=True)
class Evidence:
    """What sampling one image ended with."""

    rule: StoppingRule
    reason: StopReason
    selection_scores: list[float]


class Job:
    """One image to be smoothed.

    Samples 0 .. n_select - 1 of the seed choose the direction t; the samples after them are scored against it
    until the stopping rule ends it, at the latest after `budget`.

    Args:
        x: (3, H, W) float32 on the CPU, the canvas.
        terms: what the certificate is asked for; its sigma is the noise's.
        seed: of the noise.
        n_select: samples that choose t, at least 1.
        budget: most certification samples, at least 1.
        deadline: `time.monotonic()` after which nothing more is drawn once t is known, or None.

    Attributes:
        direction: future of t, a unit vector (T * D) float32 on the CPU.
        evidence: future of the certification scores and why no more were drawn.
    """

    def __init__(
        self, x: Tensor, terms: Terms, *, seed: int, n_select: int, budget: int, deadline: float | None = None
    ) -> None:
        self.x = x
        self.terms = terms
        self.seed = seed
        self.n_select = n_select
        self.budget = budget
        self.deadline = deadline
        self.direction: Future[Tensor] = Future()
        self.evidence: Future[Evidence] = Future()
        self.packed = 0
        self._choice: Selection | None = Selection(n_select)
        self._t: Tensor | None = None
        self._rule: StoppingRule | None = None
        self._selection_scores: list[float] = []

    @property
    def remaining(self) -> int:
        """Samples not yet packed into a batch."""
        return 0 if self.over else self.n_select + self.budget - self.packed

    @property
    def over(self) -> bool:
        """Whether nothing more is to be drawn: it has its evidence, or failed, or nobody waits."""
        return self.evidence.done() or self.direction.cancelled()

    def cancel(self) -> None:
        """The client has left: draw nothing more."""
        self.direction.cancel()
        self.evidence.cancel()

    def fail(self, error: Exception) -> None:
        """Give up with an error."""
        _settle(self.direction, error)
        _settle(self.evidence, error)

    def take(self, units: Tensor) -> None:
        """Account for the unit features (k, T * D) of its next k samples."""
        if self._choice is not None:
            units = self._choice.take(units)
            if self._choice.complete:
                self._t = self._choice.direction()
                self._selection_scores = self._choice.scores
                self._rule = StoppingRule(self.terms, self._selection_scores, self.budget)
                self._choice = None
                _settle(self.direction, self._t.cpu())
        if self._rule is not None and self._t is not None and len(units):
            reason = self._rule.update(scores_against(self._t, units))
            if reason is None and self.deadline is not None and time.monotonic() > self.deadline:
                reason = "deadline"
            if reason is not None:
                _settle(self.evidence, Evidence(self._rule, reason, self._selection_scores))


class Selection:
    """The selection split of one image: the running sum whose direction is served.

    `scores` holds the score of each sample against the mean direction of those *before* it: close to what
        certification
    will see, at no extra memory. They may guide choices (thresholds, stakes); they prove nothing.
    """

    def __init__(self, n: int) -> None:
        self._left = n
        self._sum: Tensor | None = None
        self.scores: list[float] = []

    @property
    def complete(self) -> bool:
        """Whether all its samples are in."""
        return self._left == 0

    def take(self, units: Tensor) -> Tensor:
        """Take what it needs of the unit features (k, T * D) and return the rest."""
        mine, rest = units[: self._left], units[self._left :]
        if len(mine):
            sums = mine.cumsum(0)
            if self._sum is not None:
                sums += self._sum
            before = sums - mine
            lengths = before.norm(dim=1)
            cosines = (before * mine).sum(1) / lengths
            self.scores += ((1 + cosines[lengths > _SHORTEST].double()) / 2).clamp(0, 1).tolist()
            self._sum = sums[-1].clone()
            self._left -= len(mine)
        return rest

    def direction(self) -> Tensor:
        """t (T * D), of length 1.

        Raises:
            Unacceptable: the samples cancel out, so that there is no direction to serve.
        """
        if self._sum is None or (length := self._sum.norm()) < _SHORTEST:
            raise Unacceptable(
                "The noisy features of this image have no common direction.", code="no_direction"
            )
        t: Tensor = self._sum / length
        return t


def scores_against(t: Tensor, units: Tensor) -> npt.NDArray[np.float64]:
    """S = (1 + <u, t>) / 2 of unit features (k, T * D), clipped to [0, 1] against rounding."""
    cosines = (units @ t).double().cpu().numpy()
    return np.clip((1.0 + cosines) / 2.0, 0.0, 1.0)


def _settle(future: Future[Any], value: Any) -> None:
    if future.done() or not future.set_running_or_notify_cancel():
        return
    if isinstance(value, Exception):
        future.set_exception(value)
    else:
        future.set_result(value)


class Sampler:
    """The thread that draws all samples.

    Args:
        units: noisy canvases (B, 3, H, W) and the sigma (B,) of their noise, on `device` -> unit features
            (B, T * D).
        device: where the noisy canvases go.
        batch_size: noisy forwards per batch.
    """

    def __init__(self, units: Units, device: torch.device, batch_size: int) -> None:
        self._units = units
        self._device = device
        self.batch_size = batch_size
        self._jobs: list[Job] = []
        self._changed = threading.Condition()
        self._closing = False
        self._turn = 0
        self._thread: threading.Thread | None = None

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def queued_samples(self) -> int:
        """Noisy forwards that wait to be drawn."""
        with self._changed:
            return sum(job.remaining for job in self._jobs)

    def start(self) -> None:
        """Start the thread, or start it again after it died."""
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread; jobs still waiting fail with NotReady."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
        self._fail_all(NotReady("The service is shutting down.", code="draining"))

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            NotReady: the thread is not running.
        """
        with self._changed:
            if self._closing or not self.alive:
                raise NotReady("The sampler is not running.", code="sampler_down", retry_after=1)
            self._jobs.append(job)
            self._changed.notify()

    def _run(self) -> None:
        try:
            while (batch := self._next_batch()) is not None:
                self._draw(batch)
        except BaseException:
            log.exception("sampler thread died")
            metrics.SAMPLER_FAILURES.inc()
            self._fail_all(SamplerFailed("The sampler failed; the request was not completed."))
            raise

    def _next_batch(self) -> list[tuple[Job, int]] | None:
        """Wait for work; (job, number of samples) with at most `batch_size` samples in all, or None at the
        end.
        """
        with self._changed:
            while True:
                self._drop_departed()
                if self._closing:
                    return None
                if self._jobs:
                    return self._pack()
                self._changed.wait()

    def _drop_departed(self) -> None:
        for job in [job for job in self._jobs if job.over]:
            if job.evidence.cancelled():
                metrics.SAMPLES_DROPPED.inc(job.n_select + job.budget - job.packed)
            self._jobs.remove(job)

    def _pack(self) -> list[tuple[Job, int]]:
        """Selection first, since answers wait for it; what room is left goes to all jobs in equal shares, in
        turn.
        """
        room = self.batch_size
        counts: dict[int, int] = {}

        def give(job: Job, wanted: int) -> None:
            nonlocal room
            count = min(wanted, room, job.remaining)
            job.packed += count
            room -= count
            counts[id(job)] = counts.get(id(job), 0) + count

        selecting = [job for job in self._jobs if job.packed < job.n_select]
        for position, job in enumerate(selecting):
            give(job, min(job.n_select - job.packed, -(-room // (len(selecting) - position))))
        self._turn += 1
        turned = self._jobs[self._turn % len(self._jobs) :] + self._jobs[: self._turn % len(self._jobs)]
        while room and (waiting := [job for job in turned if job.remaining]):
            share = max(1, room // len(waiting))
            for job in waiting:
                give(job, share)
        batch = [(job, counts[id(job)]) for job in self._jobs if counts.get(id(job))]
        self._jobs = [job for job in self._jobs if job.remaining]
        return batch

    @torch.inference_mode()
    def _draw(self, batch: list[tuple[Job, int]]) -> None:
        started = time.perf_counter()
        total = sum(count for _, count in batch)
        try:
            results = self._units(*self._noisy(batch, total))
            offset = 0
            for job, count in batch:
                if not job.over:
                    self._account(job, results[offset : offset + count])
                offset += count
        except Exception:
            log.exception("a batch failed", samples=total)
            metrics.SAMPLER_FAILURES.inc()
            self._give_up([job for job, _ in batch])
            return
        metrics.SAMPLES.inc(total)
        metrics.BATCH_FILL.observe(total / self.batch_size)
        metrics.SAMPLING_SECONDS.inc(time.perf_counter() - started)

    @staticmethod
    def _account(job: Job, units: Tensor) -> None:
        try:
            job.take(units)
        except SmoothgateError as error:
            job.fail(error)

    def _noisy(self, batch: list[tuple[Job, int]], total: int) -> tuple[Tensor, Tensor]:
        shape = batch[0][0].x.shape
        noisy = torch.empty((total, *shape), pin_memory=self._device.type == "cuda")
        flat = noisy.numpy()
        row = 0
        for job, count in batch:
            first = job.packed - count
            for index in range(first, job.packed):
                noise.draw_into(flat[row], job.seed, index)
                row += 1
            noisy[row - count : row].mul_(job.terms.sigma).add_(job.x)
        levels = torch.tensor([job.terms.sigma for job, count in batch for _ in range(count)])
        return noisy.to(self._device, non_blocking=True), levels.to(self._device)

    def _give_up(self, jobs: list[Job]) -> None:
        with self._changed:
            self._jobs = [job for job in self._jobs if job not in jobs]
        for job in jobs:
            job.fail(SamplerFailed("The sampler failed; the request was not completed."))

    def _fail_all(self, error: Exception) -> None:
        with self._changed:
            jobs, self._jobs = self._jobs, []
        for job in jobs:
            job.fail(error)
