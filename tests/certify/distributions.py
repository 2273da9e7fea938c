"""Score distributions on [0, 1] with known means, and the number of failures that chance allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special, stats

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Distribution:
    """`draw(rng, shape)`, `survival(tau)` = P(S >= tau), `clipped(tau)` = E[min(S, tau)]."""

    name: str
    draw: Callable[[np.random.Generator, tuple[int, ...]], Array]
    survival: Callable[[Array], Array]
    clipped: Callable[[Array], Array]

    @property
    def mean(self) -> float:
        return float(self.clipped(np.array([1.0]))[0])

    def moment(self, thresholds: Array, slopes: Array) -> float:
        """E[T(S)] of the transform with these slopes between these thresholds."""
        return float(slopes @ np.diff(self.clipped(thresholds)))

    def layer_cake(self, delta: float) -> float:
        """The integral of Phi(Phi^-1(survival) - delta), from above by less than 1e-3."""
        grid = np.linspace(0.0, 1.0, 2001)
        return float(special.ndtr(special.ndtri(self.survival(grid[:-1])) - delta).mean())


def beta(a: float, b: float) -> Distribution:
    def clipped(tau: Array) -> Array:
        below = special.betainc(a + 1, b, tau) * a / (a + b)
        return below + tau * special.betaincc(a, b, tau)

    return Distribution(
        f"beta({a:g},{b:g})",
        lambda rng, shape: rng.beta(a, b, shape),
        lambda tau: special.betaincc(a, b, tau),
        clipped,
    )


def atoms(*pairs: tuple[float, float]) -> Distribution:
    """Point masses (value, probability)."""
    values = np.array([value for value, _ in pairs])
    weights = np.array([weight for _, weight in pairs])
    return Distribution(
        "atoms" + "".join(f"({value:g}:{weight:g})" for value, weight in pairs),
        lambda rng, shape: rng.choice(values, shape, p=weights),
        lambda tau: (values >= np.asarray(tau)[..., None]) @ weights,
        lambda tau: np.minimum(values, np.asarray(tau)[..., None]) @ weights,
    )


def mixture(first: Distribution, second: Distribution, weight: float) -> Distribution:
    """`second` with probability `weight`, else `first`."""

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        return np.where(rng.random(shape) < weight, second.draw(rng, shape), first.draw(rng, shape))

    return Distribution(
        f"{first.name}+{weight:g}*{second.name}",
        draw,
        lambda tau: (1 - weight) * first.survival(tau) + weight * second.survival(tau),
        lambda tau: (1 - weight) * first.clipped(tau) + weight * second.clipped(tau),
    )


ALL = [
    beta(194, 6),
    beta(14, 6),
    beta(0.5, 0.5),
    beta(1, 9),
    atoms((0.2, 0.5), (0.9, 0.5)),
    atoms((0.0, 0.03), (1.0, 0.97)),
    atoms((0.7, 1.0)),
    mixture(beta(194, 6), beta(2, 8), 0.02),
    mixture(beta(50, 10), atoms((0.0, 1.0)), 0.05),
]


def most_failures(runs: int, alpha: float) -> int:
    """How many of the runs may fail before failing with probability alpha has become incredible (1e-4)."""
    return int(stats.binom.ppf(1 - 1e-4, runs, alpha))
