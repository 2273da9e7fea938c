"""Room at the sampler, taken in noisy forwards before an image is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from smoothgate import metrics
from smoothgate.errors import Overloaded
from smoothgate.sampling.sampler import Sampler
from smoothgate.sampling.sampling_plan import Plan
from smoothgate.settings import Settings


class Admission:
    """The budget: no request is taken whose samples would be waited for too long."""

    def __init__(self) -> None:
        self._reserved = 0

    def seconds(self, sampler: Sampler, more: int = 0) -> float:
        """How long what waits, queued or admitted, and `more` samples will take."""
        return (sampler.queued_samples + self._reserved + more) / sampler.samples_per_second

    @contextmanager
    def reserved(self, sampler: Sampler, samples: int, settings: Settings) -> Iterator[None]:
        """Room for samples, held until they are queued.

        Raises:
            Overloaded: they would be waited for longer than `max_queued_seconds`.
        """
        limit = settings.max_queued_seconds
        late = self.seconds(sampler, samples) - limit
        if late > 0 and self.seconds(sampler) > 0:
            raise Overloaded(
                f"The {samples} noise samples of this request would take longer than {limit:g} s with those "
                "that wait already.",
                code="queue_full",
                retry_after=late,
            )
        self._change(samples)
        try:
            yield
        finally:
            self._change(-samples)

    def stepped_down(self, sampler: Sampler, plan: Plan, settings: Settings) -> Plan:
        """The plan with as many certification samples as the declared ladder gives at this load."""
        steps = settings.degrade
        rung = int(self.seconds(sampler) / settings.max_queued_seconds * (len(steps) + 1))
        if not rung or not steps:
            return plan
        n_certify = steps[min(rung, len(steps)) - 1]
        if n_certify >= plan.n_certify:
            return plan
        return replace(plan, n_certify=n_certify, degraded_from=plan.n_certify)

    def _change(self, by: int) -> None:
        self._reserved += by
        metrics.RESERVED_SAMPLES.set(self._reserved)
