"""Room at the sampler, taken in noisy forwards before an image is decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

from smoothgate import metrics
from smoothgate.errors import Overloaded
from smoothgate.sampling.sampling_plan import Plan


class Load(Protocol):
    """How busy a sampler is."""

    @property
    def queued_samples(self) -> int:
        """Noisy forwards that wait to be drawn."""

    @property
    def samples_per_second(self) -> float:
        """Present throughput."""


class Admission:
    """Takes no request whose samples would wait too long at the sampler.

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
        """How long the samples that are queued or admitted, and `more`, will take."""
        return (sampler.queued_samples + self._reserved + more) / sampler.samples_per_second

    @contextmanager
    def reserved(self, sampler: Load, samples: int) -> Iterator[None]:
        """Room for samples, held until they are queued. A request that is alone always gets it.

        Raises:
            Overloaded: code `queue_full`: the samples would wait for longer than `max_queued_seconds`.
        """
        late = self.seconds(sampler, samples) - self._max_queued_seconds
        if late > 0 and self.seconds(sampler) > 0:
            raise Overloaded(
                f"The {samples} noise samples of this request would take longer than "
                f"{self._max_queued_seconds:g} s with those that wait already.",
                code="queue_full",
                retry_after=late,
            )
        self._change(samples)
        try:
            yield
        finally:
            self._change(-samples)

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
        metrics.RESERVED_SAMPLES.set(self._reserved)
