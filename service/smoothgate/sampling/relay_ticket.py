"""An image whose noisy features are handed on, sample by sample: each becomes a vote for an answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

from torch import Tensor

from smoothgate.sampling.base_ticket import BaseTicket
from smoothgate.vision import Layout


class RelayTicket(BaseTicket):
    """Hands on unit features as they come, and is drawn no further than it is told to.

    Args:
        x, layout, sigma, seed, samples, n_select, request: as in `BaseTicket`.
        deliver: called with the first sample and the features (k, T * D) float32 on the CPU. Parts may come
            in another order than their numbers. Sampler threads call it.
        failed: called once with the error if the image fails. Sampler threads call it.
        deadline: `time.monotonic()` after which nothing more is drawn. That is no failure.
    """

    def __init__(
        self,
        x: Tensor,
        layout: Layout,
        *,
        sigma: float,
        seed: int,
        samples: int,
        n_select: int,
        deliver: Callable[[int, Tensor], None],
        failed: Callable[[Exception], None],
        deadline: float,
        request: Hashable = None,
    ) -> None:
        super().__init__(
            x,
            layout,
            sigma=sigma,
            seed=seed,
            samples=samples,
            n_select=n_select,
            request=request,
        )
        self._deliver = deliver
        self._failed = failed
        self._deadline = deadline
        self._allowed = 0
        self._over = False
        self._departed = False

    @property
    def allowed(self) -> int:
        """How many samples may be drawn by now."""
        return self._allowed

    @property
    def over(self) -> bool:
        """Whether nothing more is to be drawn."""
        return self._over

    @property
    def departed(self) -> bool:
        """Whether nobody waits for its samples."""
        return self._departed

    def allow(self, samples: int) -> None:
        """Let so many samples be drawn in all. The queue has to be woken after it."""
        self._allowed = max(self._allowed, min(samples, self.samples))

    def cancel(self) -> None:
        """Draw nothing more, and hand nothing on."""
        self._over = self._departed = True

    def collect(self, first: int, units: Tensor) -> tuple[int, Tensor] | None:
        """The features as they are."""
        return first, units

    def account(self, first: int, values: Tensor) -> None:
        """Hand features on."""
        if not self._over:
            # A copy: the batch that they are part of need not be kept.
            self._deliver(first, values.clone())

    def expire(self) -> None:
        """Draw nothing more once the time is up. The vote keeps the time itself, and counts what it has."""
        if time.monotonic() > self._deadline:
            self._over = True

    def fail(self, error: Exception) -> None:
        """End with an error, as far as it has not ended."""
        if not self._over:
            self._over = True
            self._failed(error)
