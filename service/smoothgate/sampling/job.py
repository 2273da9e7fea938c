"""One image on its way through the sampler: what is still to be drawn, and what came of what was drawn."""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from smoothgate.certify.scores import Array
from smoothgate.certify.statement import Terms
from smoothgate.certify.stopping import StoppingRule, StopReason
from smoothgate.sampling.selection import Selection, known, score
from smoothgate.vision import Layout

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What sampling one image ended with."""

    rule: StoppingRule
    reason: StopReason
    selection_scores: list[float]


class Job:
    """One image to be smoothed.

    Samples 0 .. n_select - 1 of the seed choose the direction t; the samples after them are scored against it
    until the stopping rule ends it, at the latest after `budget`. Its state is running sums and scores; where
    batches end in another order than they began in, early ones wait for those before them.

    Args:
        x: (3, H, W) float32 on the CPU, the canvas.
        terms: what the certificate is asked for; its sigma is the noise's.
        seed: of the noise.
        n_select: samples that choose t, at least 1.
        budget: most certification samples, at least 1.
        deadline: `time.monotonic()` after which nothing more is drawn once t is known, or None.
        request: the same for all images of one request, which share its turns; None: a request of its own.
        layout: of the canvas.

    Attributes:
        direction: future of t, a unit vector (T * D) float32 on the CPU.
        evidence: future of the certification scores and why no more were drawn.
        packed: samples that were put into a batch.
        begun: `time.perf_counter()` of the first of them, or None.
        home: device of the selection sum, once selection has begun.
    """

    def __init__(
        self,
        x: Tensor,
        terms: Terms,
        *,
        seed: int,
        n_select: int,
        budget: int,
        deadline: float | None = None,
        request: Hashable = None,
        layout: Layout = (),
    ) -> None:
        self.x = x
        self.layout = layout
        self.terms = terms
        self.seed = seed
        self.n_select = n_select
        self.budget = budget
        self.deadline = deadline
        self.request = self if request is None else request
        self.direction: Future[Tensor] = Future()
        self.evidence: Future[Evidence] = Future()
        self.packed = 0
        self.begun: float | None = None
        self.home: torch.device | None = None
        self._lock = threading.Lock()
        self._selection = Selection()
        self._units = _InOrder[Tensor](0)
        self._scores = _InOrder[Array](0)
        self._canvases: dict[torch.device, Tensor] = {}
        self._directions: dict[torch.device, Tensor] = {}
        self._selection_scores: list[float] = []
        self._rule: StoppingRule | None = None

    @property
    def form(self) -> Hashable:
        """What the samples of one batch have in common."""
        return self.x.shape, self.layout

    @property
    def remaining(self) -> int:
        """Samples not yet put into a batch."""
        return 0 if self.over else self.n_select + self.budget - self.packed

    @property
    def selecting(self) -> bool:
        """Whether selection samples are still to be put into a batch."""
        return self.packed < self.n_select

    @property
    def over(self) -> bool:
        """Whether nothing more is to be drawn: it has its evidence, or failed, or nobody waits."""
        return self.evidence.done() or self.direction.cancelled()

    def available(self, device: torch.device) -> int:
        """Samples that a batch on a device may take now: none between the last one that selects and t."""
        if self.over:
            return 0
        if self.selecting:
            return self.n_select - self.packed if self.home in (None, device) else 0
        return self.remaining if self.direction.done() else 0

    def cancel(self) -> None:
        """The client has left: draw nothing more."""
        self.direction.cancel()
        self.evidence.cancel()

    def finish(self, direction: Tensor, evidence: Evidence) -> None:
        """Take over what an earlier job about the same image came to."""
        _settle(self.direction, direction)
        _settle(self.evidence, evidence)

    def fail(self, error: Exception) -> None:
        """Give up with an error."""
        _settle(self.direction, error)
        _settle(self.evidence, error)

    def canvas(self, device: torch.device) -> Tensor:
        """x on a device, copied there once."""
        if device not in self._canvases:
            x = self.x.pin_memory() if device.type == "cuda" else self.x
            self._canvases[device] = x.to(device, non_blocking=True)
        return self._canvases[device]

    def score(self, first: int, units: Tensor) -> list[tuple[int, Tensor]]:
        """Work on the device: the scores of the unit features (k, T * D) of samples first .. first + k - 1.

        Nothing here waits for the device. Returns (first sample, scores (k,) float64) of all that could be
        scored: less than was given where earlier selection samples are not in, more when they come in.
        """
        if first >= self.n_select:
            return [(first, score(units @ self._direction_on(units.device)))]
        with self._lock:
            return [(at, self._selection.add(part)) for at, part in self._units.put(first, units, len(units))]

    def account(self, first: int, scores: Array) -> None:
        """Work on the CPU: take in scores of samples from `first` on; the rule decides whether to go on.

        Raises:
            Unacceptable: the selection samples cancel out, so that there is no direction to serve.
        """
        with self._lock:
            for at, part in self._scores.put(first, scores, len(scores)):
                if self.over:
                    return
                if at < self.n_select:
                    self._selection_scores += known(part)
                    if at + len(part) == self.n_select:
                        self._begin_certification()
                elif self._rule is not None:
                    self._end(self._rule.update(part))

    def expire(self) -> None:
        """End at the deadline, with the scores that are there."""
        with self._lock:
            if self.deadline is not None and time.monotonic() > self.deadline and not self.over:
                self._end("deadline" if self._rule is not None and self._rule.n else None)

    def _begin_certification(self) -> None:
        t = self._selection.direction()
        self._directions[t.device] = t
        self._rule = StoppingRule(self.terms, self._selection_scores, self.budget)
        _settle(self.direction, t.cpu())

    def _direction_on(self, device: torch.device) -> Tensor:
        if device not in self._directions:
            self._directions[device] = self.direction.result().to(device, non_blocking=True)
        return self._directions[device]

    def _end(self, reason: StopReason | None) -> None:
        if reason is not None and self._rule is not None:
            _settle(self.evidence, Evidence(self._rule, reason, self._selection_scores))


class _InOrder(Generic[T]):
    """Hands out consecutive pieces in order, whatever order they come in."""

    def __init__(self, start: int) -> None:
        self._next = start
        self._waiting: dict[int, tuple[T, int]] = {}

    def put(self, first: int, piece: T, size: int) -> Iterator[tuple[int, T]]:
        """Take a piece and yield (first, piece) of all whose turn has come."""
        self._waiting[first] = piece, size
        while self._next in self._waiting:
            at, (piece, size) = self._next, self._waiting.pop(self._next)
            self._next += size
            yield at, piece


def _settle(future: Future[Any], value: Any) -> None:
    if future.done() or not future.set_running_or_notify_cancel():
        return
    if isinstance(value, Exception):
        future.set_exception(value)
    else:
        future.set_result(value)
