"""One image that is to be sampled: what the queue knows of it, and what its client waits for."""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from torch import Tensor

from smoothgate import metrics
from smoothgate.certify.scores import Array
from smoothgate.certify.statement import Terms
from smoothgate.certify.stopping import StopReason
from smoothgate.errors import SamplerFailed, SmoothgateError
from smoothgate.sampling.certifier import Certifier, SamplingResult
from smoothgate.vision import Layout

log = structlog.get_logger("sampler")


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

    @property
    def samples(self) -> int:
        """Most samples that it takes."""
        return self.n_select + self.budget

    @property
    def batch_key(self) -> Hashable:
        """What all samples of one batch have in common: shape and layout of the canvas."""
        return self.x.shape, self.layout


class Ticket:
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
        self.task = task
        self.seed = seed
        self.deadline = deadline
        self.request = object() if request is None else request
        self.certifier = Certifier(task.terms, task.n_select, task.budget)
        self.direction: Future[Tensor] = Future()
        self.result: Future[SamplingResult] = Future()
        self._lock = threading.Lock()

    @property
    def over(self) -> bool:
        """Whether nothing more is to be drawn: it has its result, or failed, or nobody waits for it."""
        return self.result.done() or self.direction.cancelled()

    def cancel(self) -> None:
        """The client has left: draw nothing more."""
        self.direction.cancel()
        self.result.cancel()

    def account(self, first: int, scores: Array) -> None:
        """Take in scores of the samples from `first` on: all selection scores at once, later ones in parts.

        Raises:
            Unacceptable: the selection samples cancel out, so that there is no direction to serve.
        """
        with self._lock:
            if self.over:
                return
            if first < self.task.n_select:
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

    @contextmanager
    def failing_alone(self, reason: str) -> Iterator[None]:
        """Whatever goes wrong in the block ends this ticket and no other.

        Args:
            reason: under which a failure is counted that is no answer to the client.
        """
        try:
            yield
        except SmoothgateError as error:
            self.fail(error)
        except Exception:
            metrics.FAILED_IMAGES.labels(reason).inc()
            log.exception("an image failed", reason=reason)
            self.fail(SamplerFailed("The sampler failed; the request was not completed."))

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
