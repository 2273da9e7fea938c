"""Room at the sampler or at vLLM, taken before an image is decoded, and corrected once its size is known.

Work at the sampler is counted in noisy forwards of a canvas of typical size, as the queue counts it, and work
at vLLM in generations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

from prometheus_client import Gauge

from smoothgate import metrics
from smoothgate.errors import Overloaded
from smoothgate.sampling.sampling_plan import Plan


class Load(Protocol):
    """How busy a sampler is, or vLLM."""

    @property
    def queued_work(self) -> float:
        """Work that waits."""

    @property
    def work_per_second(self) -> float:
        """Present throughput."""


class Admission:
    """Takes no request whose work would wait too long.

    Args:
        max_queued_seconds: the longest wait.
        degrade: numbers of certification samples, falling; as the wait grows, requests that name no number
            get these instead of the default.
        work: what the work is, for errors.
        reserved: shows the work that is admitted and not queued yet.
    """

    def __init__(
        self,
        max_queued_seconds: float,
        degrade: Sequence[int] = (),
        *,
        work: str = "noise samples",
        reserved: Gauge = metrics.RESERVED_WORK,
    ) -> None:
        self._max_queued_seconds = max_queued_seconds
        self._degrade = degrade
        self._work = work
        self._reserved = 0
        self._shown = reserved

    def seconds(self, load: Load, more: int = 0) -> float:
        """How long the work that is queued or admitted, and `more`, will take."""
        return (load.queued_work + self._reserved + more) / load.work_per_second

    @contextmanager
    def reserved(self, load: Load, work: int) -> Iterator[Callable[[int], None]]:
        """Room for work, held until it is queued. A request that is alone always gets it.

        Yields:
            What changes the work, once the size of the images is known; raises as this.

        Raises:
            Overloaded: code `queue_full`: the work would wait for longer than `max_queued_seconds`.
        """
        held = 0

        def hold(work: int) -> None:
            nonlocal held
            late = self.seconds(load, work - held) - self._max_queued_seconds
            if work > held and late > 0 and self.seconds(load, -held) > 0:
                raise Overloaded(
                    f"The {self._work} of this request would take longer than "
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

    def stepped_down(self, load: Load, plan: Plan) -> Plan:
        """The plan with as many certification samples as the operator's steps give at this load."""
        if not self._degrade:
            return plan
        share = self.seconds(load) / self._max_queued_seconds
        step = int(share * (len(self._degrade) + 1))
        if not step:
            return plan
        n_certify = self._degrade[min(step, len(self._degrade)) - 1]
        if n_certify >= plan.n_certify:
            return plan
        return replace(plan, n_certify=n_certify, degraded_from=plan.n_certify)

    def _change(self, by: int) -> None:
        self._reserved += by
        self._shown.set(self._reserved)
