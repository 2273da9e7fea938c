"""Shares with their intervals."""

from __future__ import annotations

from dataclasses import dataclass

from scipy.stats import binomtest


@dataclass(frozen=True, slots=True)
class Share:
    """k of n, with the 95 % interval of Clopper and Pearson."""

    k: int
    n: int

    @property
    def value(self) -> float:
        """k / n."""
        return self.k / self.n

    def interval(self) -> tuple[float, float]:
        """Lower and upper limit of the interval."""
        limits = binomtest(self.k, self.n).proportion_ci(method="exact")
        return float(limits.low), float(limits.high)

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{self.value:.1%} ({low:.1%} to {high:.1%})"
