"""Lower confidence bounds on the mean of a distribution on [0, 1], from independent samples of it.

Every function returns a number L in [0, 1] with `P(L <= mean) >= 1 - alpha`; all but `betting` hold for a
number of samples that was fixed before the first was drawn. `smoothgate.certify.betting` has the bound that
certificates use; those here are what it is compared with. Arithmetic is float64, results are rounded down.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import special

from smoothgate.certify.alpha import check_alpha

Array = npt.NDArray[np.float64]

#: Relative margin for the rounding errors of a handful of float64 operations and of scipy's special
#: functions.
MARGIN = 1e-12


def check_scores(scores: npt.ArrayLike) -> Array:
    """The scores as a float64 vector (n,), n >= 1; ValueError if one is not a number in [0, 1]."""
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"scores must be a non-empty vector, got shape {values.shape}")
    # Written so that NaN fails too.
    if not bool(np.all((values >= 0.0) & (values <= 1.0))):
        raise ValueError("every score must be a number in [0, 1]")
    return values


def scores_from_cosines(cosines: npt.ArrayLike) -> Array:
    """Scores S = (1 + c) / 2 of cosines c (n,), as computed in float32 or better.

    A cosine that rounding has put outside [-1, 1] by at most 1e-3 is clipped; ValueError for anything further
    out, NaN included.
    """
    values = np.asarray(cosines, dtype=np.float64)
    if not bool(np.all(np.abs(values) <= 1.0 + 1e-3)):
        raise ValueError("every cosine must be a number in [-1, 1]")
    return check_scores((1.0 + np.clip(values, -1.0, 1.0)) / 2.0)


def round_down(value: float) -> float:
    """A lower bound, moved down past the rounding errors of its own computation and kept in [0, 1]."""
    return min(max(value - MARGIN, 0.0), 1.0)


def hoeffding(scores: npt.ArrayLike, alpha: float) -> float:
    """Hoeffding's bound, mean - sqrt(log(1/alpha) / 2n)."""
    values = check_scores(scores)
    return round_down(float(values.mean()) - math.sqrt(-math.log(check_alpha(alpha)) / (2 * values.size)))


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
    return round_down(float(values.mean()) - spread - 7.0 * log_term / (3.0 * (n - 1)))


def clopper_pearson(successes: int, n: int, alpha: float) -> float:
    """The exact one-sided bound on the probability of an event seen `successes` times in n trials."""
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"need 0 <= successes <= n and n >= 1, got {successes} of {n}")
    check_alpha(alpha)
    if successes == 0:
        return 0.0
    return round_down(float(special.betaincinv(successes, n - successes + 1, alpha)))


def ceiling(n: int, alpha: float) -> float:
    """alpha^(1/n): no valid bound from n samples can exceed it, whatever the samples are.

    Proof: let the mean be s and the scores Bernoulli. All n are 1 with probability s^n, and a bound that then
    exceeds s must do so with probability at most alpha; so it cannot exceed any s with s^n > alpha.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    return float(check_alpha(alpha) ** (1.0 / n))


def samples_needed(target: float, alpha: float) -> int:
    """The smallest n whose `ceiling` reaches the target, a mean in (0, 1)."""
    if not 0.0 < target < 1.0:
        raise ValueError(f"the target must lie strictly between 0 and 1, got {target!r}")
    return max(1, math.ceil(math.log(check_alpha(alpha)) / math.log(target) - MARGIN))
