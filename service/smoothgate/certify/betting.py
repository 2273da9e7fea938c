"""Betting: the lower confidence bound on a mean that certificates use. It is valid after any number of
samples.

A gambler bets that the mean exceeds m. At each sample x in [0, 1] the gambler stakes the fraction k of the
largest allowed stake, and the capital is multiplied by 1 - k + k x / m. That factor is never negative, and
its mean is at most 1 if the true mean is at most m. One unit of capital, split over several fractions k with
prior weights w, becomes

    K_n(m) = sum_k w_k prod_{i <= n} (1 - k + k x_i / m),

This is a non-negative supermartingale that starts at 1 if E[x | past] <= m. By Ville's inequality the
probability that it ever reaches 1 / alpha is at most alpha. So with probability at least 1 - alpha the true
mean is in *all* of the sets

    { m : K_n(m) < 1 / alpha },  n = 1, 2, ...

K_n falls in m, so each set is an interval (L_n, 1], and L_n is a confidence sequence: it may be read after
any number of samples, even a number that was chosen by looking at it.

Source: Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting", JRSS-B 2023, section
4 (the capital process). We use its one-sided half and mix the stakes as in Orabona & Jun 2021, in place of
predictable plug-ins. A mixture does not depend on the order of the samples and has nothing to adapt on the
way. It loses at most log(1 / w_k) against the best fraction of its list.

The stakes must be chosen before the first sample. `Bets.chosen` puts half of the weight on the fraction that
is best on a selection split. The other half protects against a split that misleads.

With u = log m, log K_n is convex and falls in u. Newton's iterates that start on the left of the root
therefore stay on the left of it. Each of them is a valid bound, and a few are enough.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from smoothgate.certify.alpha import check_alpha
from smoothgate.certify.scores import MARGIN, Array, check_scores

#: Fractions of the largest stake. The largest is just below 1: at 1 a single score of 0 would lose all
#: capital.
_FRACTIONS: tuple[float, ...] = (1 - 1e-7, 0.95, 0.8, 0.6, 0.4, 0.25, 0.12, 0.06, 0.03, 0.015, 0.0075)

#: log K must pass log(1 / alpha) by this much: more than the rounding error of a sum of 10^6 logarithms.
_SLACK = 1e-9


def _gains(values: Array, counts: Array, fractions: Array, mean: Array | float) -> tuple[Array, Array]:
    """log prod (1 - k + k x / m) for each fraction k (K,), and its derivative in log m; m scalar or (K,)."""
    ratio = values[None, :] / np.reshape(np.asarray(mean, dtype=np.float64), (-1, 1))
    stakes = fractions[:, None]
    factor = 1.0 + stakes * (ratio - 1.0)
    return np.log(factor) @ counts, -(stakes * ratio / factor) @ counts


@dataclass(frozen=True, slots=True)
class Bets:
    """Fractions of the largest stake and the prior weights of the capital put on each.

    Attributes:
        fractions: in (0, 1), shape (K,).
        weights: positive, sum at most 1, shape (K,).
    """

    fractions: tuple[float, ...]
    weights: tuple[float, ...]

    @classmethod
    def spread(cls) -> Bets:
        """Equal weights, for scores of which nothing is known."""
        return cls(_FRACTIONS, (1.0 / len(_FRACTIONS),) * len(_FRACTIONS))

    @classmethod
    def chosen(cls, selection: Array, n: int, alpha: float) -> Bets:
        """Half of the weight on the fraction that gives the best bound after n samples like `selection`."""
        best = _best_fraction(selection, n, -math.log(alpha))
        rest = 0.5 / len(_FRACTIONS)
        return cls((best, *_FRACTIONS), (0.5, *(rest,) * len(_FRACTIONS)))

    def log_capital(self, mean: float, values: Array, counts: Array | None = None) -> tuple[float, float]:
        """log K(mean) and its derivative in log(mean), after values (n,), each seen `counts` times."""
        times = np.ones_like(values) if counts is None else counts
        gains, slopes = _gains(values, times, np.asarray(self.fractions), mean)
        terms = gains + np.log(self.weights)
        top = float(terms.max())
        mix = np.exp(terms - top)
        total = float(mix.sum())
        return top + math.log(total), float(mix @ slopes) / total

    def lower(self, values: Array, alpha: float, counts: Array | None = None) -> float:
        """The largest m found with K(m) >= 1 / alpha; 0 if there is none."""
        enough = -math.log(check_alpha(alpha)) + _SLACK
        goal = enough + _SLACK  # so that rounding does not end the last step too early
        times = np.ones_like(values) if counts is None else counts
        mean = float(values @ times) / float(times.sum())
        if mean <= 0.0:
            return 0.0
        u = math.log(mean)
        step = goal / float(times.sum())
        capital, slope = self.log_capital(math.exp(u), values, times)
        while capital < goal:  # go left until the capital is enough
            u, step = u - step, 2.0 * step
            if u < -700.0:
                return 0.0
            capital, slope = self.log_capital(math.exp(u), values, times)
        for _ in range(60):
            move = (capital - goal) / -slope
            ahead, ahead_slope = self.log_capital(math.exp(u + move), values, times)
            if ahead < enough:
                break
            u, capital, slope = u + move, ahead, ahead_slope
            if move < 1e-12:
                break
        return min(math.exp(u) * (1.0 - MARGIN), 1.0)


def _best_fraction(selection: Array, n: int, goal: float) -> float:
    """The single fraction that gives the highest bound after n samples like `selection`."""
    fractions = np.concatenate(
        [np.asarray(_FRACTIONS), np.asarray([0.9, 0.7, 0.5, 0.32, 0.18, 0.085, 0.042])]
    )
    values = np.maximum(selection, 1e-6)
    counts = np.full(values.shape, n / values.size)
    u = np.full(fractions.shape, math.log(float(values.mean())))
    for _ in range(12):
        gains, slopes = _gains(values, counts, fractions, np.exp(u))
        u = np.minimum(u + np.clip((gains - goal) / -slopes, -2.0, 2.0), 0.0)
    return float(fractions[int(np.argmax(u))])


def betting(scores: npt.ArrayLike, alpha: float, bets: Bets | None = None) -> float:
    """The betting bound after scores (n,): P(bound <= mean) >= 1 - alpha, at any stopping time n.

    Args:
        scores: in the order drawn; the bound does not depend on the order.
        alpha: error probability.
        bets: chosen before the first score; None: equal weights.

    Raises:
        ValueError: a score that is not a number in [0, 1], no score, or alpha not in (0, 1).
    """
    return (bets or Bets.spread()).lower(check_scores(scores), alpha)
