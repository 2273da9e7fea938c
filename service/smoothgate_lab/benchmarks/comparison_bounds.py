"""Lower confidence bounds on a mean that the betting bound is compared with, and the limit of all of them.

The samples are independent draws of a distribution on [0, 1]. Every bound L satisfies
`P(L <= mean) >= 1 - alpha` for a number of samples that is fixed before the first draw. Arithmetic is
float64, and results are rounded down.
"""

from __future__ import annotations

import math

import numpy.typing as npt
from scipy import special

from smoothgate.certify.alpha import check_alpha
from smoothgate.certify.scores import MARGIN, check_scores


def _round_down(value: float) -> float:
    """A lower bound, moved down past the rounding errors of its own computation and kept in [0, 1]."""
    return min(max(value - MARGIN, 0.0), 1.0)


def hoeffding(scores: npt.ArrayLike, alpha: float) -> float:
    """Hoeffding's bound, mean - sqrt(log(1/alpha) / 2n)."""
    values = check_scores(scores)
    return _round_down(float(values.mean()) - math.sqrt(-math.log(check_alpha(alpha)) / (2 * values.size)))


def empirical_bernstein(scores: npt.ArrayLike, alpha: float) -> float:
    """Maurer & Pontil (2009), theorem 4: mean - sqrt(2 V log(2/alpha) / n) - 7 log(2/alpha) / (3 (n - 1)).

    V is the unbiased sample variance. With a single sample the bound is 0.
    """
    values = check_scores(scores)
    n = values.size
    log_term = math.log(2.0 / check_alpha(alpha))
    if n == 1:
        return 0.0
    spread = math.sqrt(2.0 * float(values.var(ddof=1)) * log_term / n)
    return _round_down(float(values.mean()) - spread - 7.0 * log_term / (3.0 * (n - 1)))


def clopper_pearson(successes: int, n: int, alpha: float) -> float:
    """The exact one-sided bound on the probability of an event seen `successes` times in n trials."""
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"need 0 <= successes <= n and n >= 1, got {successes} of {n}")
    check_alpha(alpha)
    if successes == 0:
        return 0.0
    return _round_down(float(special.betaincinv(successes, n - successes + 1, alpha)))


def ceiling(n: int, alpha: float) -> float:
    """alpha^(1/n): no valid bound from n samples can exceed it, whatever the samples are.

    Proof: let the mean be s and the scores Bernoulli. All n are 1 with probability s^n, and a bound that then
    exceeds s must do so with probability at most alpha; so it cannot exceed any s with s^n > alpha.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    return float(check_alpha(alpha) ** (1.0 / n))
