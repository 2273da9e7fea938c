"""The mathematics of one image while it is sampled: its first samples choose t, the others are evidence."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sized
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from smoothgate.certify.scores import Array
from smoothgate.certify.statement import Terms
from smoothgate.certify.stopping import StoppingRule, StopReason
from smoothgate.sampling.selection import Selection, known, score

T = TypeVar("T", bound=Sized)


@dataclass(frozen=True, slots=True, eq=False)
class SamplingResult:
    """What sampling one image ended with.

    Attributes:
        rule: the stopping rule, with all certification scores.
        reason: why no more samples were drawn.
        selection_scores: of the samples that chose t.
    """

    rule: StoppingRule
    reason: StopReason
    selection_scores: list[float]


class Certifier:
    """Takes in the samples of one image, batch by batch, and keeps running sums and scores instead of them.

    Samples 0 .. n_select - 1 choose the direction t. The samples after them are scored against t until the
    stopping rule ends. Batches may end in another order than they began in: each part waits for those before
    it, so that the result depends on the samples alone.

    Args:
        terms: what the certificate is asked for.
        n_select: samples that choose t, at least 1.
        budget: most certification samples, at least 1.

    Attributes:
        direction: t (T * D) on the device of the selection samples, or None before it is known.
    """

    def __init__(self, terms: Terms, n_select: int, budget: int) -> None:
        self.direction: Tensor | None = None
        self._terms = terms
        self._n_select = n_select
        self._budget = budget
        self._selecting = threading.Lock()
        self._units = _ReorderBuffer[Tensor](0)
        self._selection = Selection()
        self._device_scores: list[Tensor] = []
        self._selection_scores: list[float] = []
        self._scores = _ReorderBuffer[Array](n_select)
        self._rule: StoppingRule | None = None
        self._directions: dict[torch.device, Tensor] = {}

    @property
    def n_certify(self) -> int:
        """Number of certification scores so far."""
        return 0 if self._rule is None else self._rule.n

    def select(self, first: int, units: Tensor) -> Tensor | None:
        """Work on the device: take in unit features (k, T * D) of the selection samples from `first` on.

        Nothing here waits for the device. Any thread may call it.

        Returns:
            Once the last one is in, the scores (n_select,) of all selection samples; None before that.
        """
        with self._selecting:
            self._device_scores += [self._selection.add(part) for part in self._units.put(first, units)]
            return torch.cat(self._device_scores) if self._units.next == self._n_select else None

    def scores(self, units: Tensor) -> Tensor:
        """Work on the device, after `begin`: scores (k,) of certification samples with units (k, T * D).

        Nothing here waits for the device. t is copied once to each device.
        """
        if units.device not in self._directions:
            assert self.direction is not None  # noqa: S101
            self._directions[units.device] = self.direction.to(units.device, non_blocking=True)
        return score(units @ self._directions[units.device])

    def begin(self, selection_scores: Array) -> Tensor:
        """Work on the CPU: end the selection with the scores (n_select,) that `select` returned.

        Returns:
            t.

        Raises:
            Unacceptable: the selection samples cancel out, so that there is no direction to serve.
        """
        self._selection_scores = known(selection_scores)
        self.direction = self._selection.direction()
        self._rule = StoppingRule(self._terms, self._selection_scores, self._budget)
        return self.direction

    def update(self, first: int, scores: Array) -> StopReason | None:
        """Work on the CPU, after `begin`: take in the scores of the certification samples from `first` on.

        Returns:
            Why sampling should end; None as long as it should go on.
        """
        assert self._rule is not None  # noqa: S101
        for part in self._scores.put(first, scores):
            if (reason := self._rule.update(part)) is not None:
                return reason
        return None

    def result(self, reason: StopReason) -> SamplingResult:
        """What has been established, after `begin`."""
        assert self._rule is not None  # noqa: S101
        return SamplingResult(self._rule, reason, self._selection_scores)


class _ReorderBuffer(Generic[T]):
    """Hands out consecutive pieces in order, whatever order they come in.

    Attributes:
        next: number of the first sample that has not been handed out.
    """

    def __init__(self, first: int) -> None:
        self.next = first
        self._waiting: dict[int, T] = {}

    def put(self, first: int, piece: T) -> Iterator[T]:
        """Take the piece that starts with sample `first`, and yield all whose turn has come."""
        self._waiting[first] = piece
        while self.next in self._waiting:
            piece = self._waiting.pop(self.next)
            self.next += len(piece)
            yield piece
