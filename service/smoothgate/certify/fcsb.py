"""The Feature Cosine Similarity Bound at a distance, and the radius at a cosine.

    For every x' with ||x' - x||_2 <= eps:   <g(x'), t>  >=  FCSB(eps),

Here g is the smoothed encoder and t the served unit direction. ||g|| <= 1, so an FCSB that is not negative
also bounds the cosine of g(x') and t. A negative FCSB says nothing. There are two bounds:

* Mean bound (paper, Theorem 1): 2 Phi(Phi^-1(s) - eps / sigma) - 1, with a lower bound on the mean score s.
* Layer-cake bound (`smoothgate.certify.layer_cake`): from the same knowledge never below the mean bound, and
  often far above it.

eps, sigma and radii are l2 distances in the encoder's input space, in pixels in [0, 1]. Bounds and radii are
rounded down.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from scipy import optimize, special

from smoothgate.certify.layer_cake import Moments
from smoothgate.certify.scores import MARGIN

#: How a bound or a radius is proved. The angle gives radii alone (`smoothgate.certify.angular`).
BoundName = Literal["mean", "layer_cake", "angular"]


@dataclass(frozen=True, slots=True)
class Point:
    """Both bounds at one eps, each in [-1, 1]."""

    eps: float
    mean: float
    layer_cake: float

    @property
    def value(self) -> float:
        """The served bound: the better of the two. Both hold at once, so the choice needs no share of
        alpha.
        """
        return max(self.mean, self.layer_cake)

    @property
    def served(self) -> BoundName:
        """Which bound is served."""
        return "layer_cake" if self.layer_cake > self.mean else "mean"


def check_sigma(sigma: float) -> float:
    """Return sigma as a float; ValueError unless it is positive and finite."""
    if not (math.isfinite(sigma) and sigma > 0.0):
        raise ValueError(f"sigma must be positive, got {sigma!r}")
    return float(sigma)


def check_eps(eps: float) -> float:
    """Return eps as a float; ValueError unless it is non-negative and finite."""
    if not (math.isfinite(eps) and eps >= 0.0):
        raise ValueError(f"eps must be non-negative, got {eps!r}")
    return float(eps)


def check_cosine(cosine: float) -> float:
    """Return a cosine to be certified as a float; ValueError unless it lies in (-1, 1)."""
    if not -1.0 < cosine < 1.0:
        raise ValueError(f"a cosine to certify must lie strictly between -1 and 1, got {cosine!r}")
    return float(cosine)


def mean_bound(score_lower: float, eps: float, sigma: float) -> float:
    """The paper's bound, 2 Phi(Phi^-1(s) - eps / sigma) - 1, for a lower bound s on the mean score."""
    delta = delta_of(eps, sigma)
    return _cosine(float(special.ndtr(special.ndtri(score_lower) - delta)) if score_lower > 0.0 else 0.0)


def mean_radius(score_lower: float, cosine: float, sigma: float) -> float | None:
    """The largest eps at which `mean_bound` is at least `cosine`: sigma (Phi^-1(s) - Phi^-1((1 + cosine) /
    2)).

    None if the bound is below the cosine even at eps = 0.
    """
    check_sigma(sigma)
    score = (1.0 + check_cosine(cosine)) / 2.0
    if mean_bound(score_lower, 0.0, sigma) < cosine:
        return None
    exact = float(special.ndtri(score_lower) - special.ndtri(score))
    return max(sigma * (exact - MARGIN) * (1.0 - MARGIN), 0.0)


def layer_cake_bound(moments: Moments, eps: float, sigma: float) -> float:
    """The layer-cake bound at eps."""
    return _cosine(moments.expected_score(delta_of(eps, sigma)))


def layer_cake_radius(moments: Moments, cosine: float, sigma: float) -> float | None:
    """An eps, within 1e-8 sigma of the largest, at which `layer_cake_bound` is at least `cosine`.

    None if the bound is below the cosine even at eps = 0. The bound is evaluated at the eps that is returned,
    so that an error of the search could only make the radius smaller.
    """
    check_sigma(sigma)
    check_cosine(cosine)
    delta = largest_delta(lambda delta: layer_cake_bound(moments, delta, 1.0) - cosine)
    return None if delta is None else sigma * delta * (1.0 - MARGIN)


def point(moments: Moments, eps: float, sigma: float) -> Point:
    """Both bounds at eps."""
    return Point(eps, mean_bound(moments.score_lower, eps, sigma), layer_cake_bound(moments, eps, sigma))


def delta_of(eps: float, sigma: float) -> float:
    """eps / sigma, rounded up."""
    return math.nextafter(check_eps(eps) / check_sigma(sigma), math.inf) if eps > 0.0 else 0.0


def _cosine(score: float) -> float:
    return max(2.0 * score - 1.0 - MARGIN, -1.0)


def largest_delta(excess: Callable[[float], float]) -> float | None:
    """A delta >= 0 with excess(delta) >= 0, close to the largest. `excess` falls. None if excess(0) < 0."""
    if excess(0.0) < 0.0:
        return None
    far = 1.0
    while excess(far) >= 0.0:
        far *= 2.0
    delta = float(optimize.brentq(excess, 0.0, far, xtol=1e-10))
    back = 1e-10
    while delta > 0.0 and excess(delta) < 0.0:
        delta, back = max(delta - back, 0.0), 2.0 * back
    return delta
