"""Room at the sampler, taken before an image is decoded, and corrected once its size is known.

Work is counted in noisy forwards of a canvas of typical size, as the queue counts it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

from smoothgate import metrics
from smoothgate.errors import Overloaded
from smoothgate.sampling.sampling_plan import Plan


class Load(Protocol):
    """How busy a sampler is."""

    @property
    def queued_work(self) -> float:
        """Work that waits."""

    @property
    def work_per_second(self) -> float:
        """Present throughput."""


class Admission:
    """Takes no request whose work would wait too long at the sampler.

    Args:
        max_queued_seconds: the longest wait.
        degrade: numbers of certification samples, falling; as the wait grows, requests that name no number
            get these instead of the default.
    """

    def __init__(self, max_queued_seconds: float, degrade: Sequence[int] = ()) -> None:
        self._max_queued_seconds = max_queued_seconds
        self._degrade = degrade
        self._reserved = 0

    def seconds(self, sampler: Load, more: int = 0) -> float:
        """How long the work that is queued or admitted, and `more`, will take."""
        return (sampler.queued_work + self._reserved + more) / sampler.work_per_second

    @contextmanager
    def reserved(self, sampler: Load, work: int) -> Iterator[Callable[[int], None]]:
        """Room for work, held until it is queued. A request that is alone always gets it.

        Yields:
            What changes the work, once the size of the images is known; raises as this.

        Raises:
            Overloaded: code `queue_full`: the work would wait for longer than `max_queued_seconds`.
        """
        held = 0

        def hold(work: int) -> None:
            nonlocal held
            late = self.seconds(sampler, work - held) - self._max_queued_seconds
            if work > held and late > 0 and self.seconds(sampler, -held) > 0:
                raise Overloaded(
                    "The noise samples of this request would take longer than "
                    f"{self._max_queued_seconds:g} s with those that wait already.",
                    code="queue_full",
                    retry_after=late,
                )
            self._change(work - held)
            held = work

        hold(work)
        try:
            yield hold
        finally:
            self._change(-held)

    def stepped_down(self, sampler: Load, plan: Plan) -> Plan:
        """The plan with as many certification samples as the operator's steps give at this load."""
        if not self._degrade:
            return plan
        share = self.seconds(sampler) / self._max_queued_seconds
        step = int(share * (len(self._degrade) + 1))
        if not step:
            return plan
        n_certify = self._degrade[min(step, len(self._degrade)) - 1]
        if n_certify >= plan.n_certify:
            return plan
        return replace(plan, n_certify=n_certify, degraded_from=plan.n_certify)

    def _change(self, by: int) -> None:
        self._reserved += by
        metrics.RESERVED_WORK.set(self._reserved)
