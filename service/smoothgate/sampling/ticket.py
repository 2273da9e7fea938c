"""One image whose features are certified: its task, and what its client waits for."""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from smoothgate.certify.scores import Array
from smoothgate.certify.statement import Terms
from smoothgate.certify.stopping import StopReason
from smoothgate.sampling.base_ticket import BaseTicket
from smoothgate.sampling.certifier import Certifier, SamplingResult
from smoothgate.vision import Layout


@dataclass(frozen=True, slots=True, eq=False)
class SamplingTask:
    """What is to be sampled. Together with the seed of the noise it determines the result.

    Attributes:
        x: the canvas (3, H, W) float32 on the CPU.
        terms: what the certificate is asked for; its sigma is the noise's.
        n_select: samples that choose t, at least 1.
        budget: most certification samples, at least 1.
        layout: of the canvas.
    """

    x: Tensor
    terms: Terms
    n_select: int
    budget: int
    layout: Layout = ()


class Ticket(BaseTicket):
    """A task in the sampler's hands.

    Sampler threads settle its two futures through `account`, `expire` and `fail`. The client may `cancel` at
    any time.

    Args:
        task: what is to be sampled.
        seed: of the noise.
        deadline: `time.monotonic()` after which nothing more is drawn once t is known, or None.
        request: the same for all images of one request, which share its turns; None: a request of its own.

    Attributes:
        certifier: the mathematics.
        direction: future of t, a unit vector (T * D) float32 on the CPU.
        result: future of what sampling ended with.
    """

    def __init__(
        self, task: SamplingTask, seed: int, *, deadline: float | None = None, request: Hashable = None
    ) -> None:
        super().__init__(
            task.x,
            task.layout,
            sigma=task.terms.sigma,
            seed=seed,
            samples=task.n_select + task.budget,
            n_select=task.n_select,
            request=request,
        )
        self.task = task
        self.deadline = deadline
        self.certifier = Certifier(task.terms, task.n_select, task.budget)
        self.direction: Future[Tensor] = Future()
        self.result: Future[SamplingResult] = Future()
        self._lock = threading.Lock()

    @property
    def allowed(self) -> int:
        """All samples once t is known, and the selection samples before."""
        return self.samples if self.direction.done() else self.n_select

    @property
    def departed(self) -> bool:
        """Whether its client has left."""
        return self.result.cancelled()

    @property
    def over(self) -> bool:
        """Whether nothing more is to be drawn: it has its result, or failed, or nobody waits for it."""
        return self.result.done() or self.direction.cancelled()

    def cancel(self) -> None:
        """The client has left: draw nothing more."""
        self.direction.cancel()
        self.result.cancel()

    def collect(self, first: int, units: Tensor) -> tuple[int, Tensor] | None:
        """The scores of the samples; those of all selection samples come with the last one of them."""
        if first >= self.n_select:
            return first, self.certifier.scores(units)
        scores = self.certifier.select(first, units)
        return None if scores is None else (0, scores)

    def account(self, first: int, values: Tensor) -> None:
        """Take in scores of the samples from `first` on: all selection scores at once, later ones in parts.

        Raises:
            Unacceptable: the selection samples cancel out, so that there is no direction to serve.
        """
        with self._lock:
            if self.over:
                return
            scores: Array = values.numpy()
            if first < self.n_select:
                _settle(self.direction, self.certifier.begin(scores).cpu())
            else:
                self._end(self.certifier.update(first, scores))

    def expire(self) -> None:
        """After the deadline, end with the certification scores that are there, if there are any.

        Does not wait for a thread that takes in scores: that thread asks again when it has done so.
        """
        if self.deadline is None or time.monotonic() <= self.deadline:
            return
        if not self._lock.acquire(blocking=False):
            return
        try:
            self._end("deadline" if self.certifier.n_certify else None)
        finally:
            self._lock.release()

    def finish(self, direction: Tensor, result: SamplingResult) -> None:
        """Take over what an earlier ticket for the same task came to."""
        with self._lock:
            _settle(self.direction, direction)
            _settle(self.result, result)

    def fail(self, error: Exception) -> None:
        """End with an error, as far as it has not ended."""
        with self._lock:
            _settle(self.direction, error)
            _settle(self.result, error)

    def _end(self, reason: StopReason | None) -> None:
        if reason is not None:
            _settle(self.result, self.certifier.result(reason))


def _settle(future: Future[Any], value: Any) -> None:
    """Give a future its value or error, unless it has one. Its ticket's lock must be held."""
    # A client may cancel between the two questions: then the second one says no.
    if future.done() or not future.set_running_or_notify_cancel():
        return
    if isinstance(value, Exception):
        future.set_exception(value)
    else:
        future.set_result(value)
