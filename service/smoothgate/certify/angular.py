"""The angular radius: how far x may move while the angle between g(x') and t stays below theta.

The language model receives a direction, so the angle is what counts. The inner product pays twice for mass
that noise throws to -t. The angle does not.

Theorem. Let phi(z) be the angle between the unit vectors u(z) and t, 0 < theta <= pi / 2 and g(x') =
E[u(x' + d)]. If E[sin(theta - phi(x' + d))] > 0, then the angle between g(x') and t is below theta.

Proof. Let e be a unit vector orthogonal to t. Then <u, t> = cos phi and <u, e> <= sin phi, so

    <g, t> sin theta - <g, e> cos theta  >=  E[cos phi sin theta - sin phi cos theta]  >  0.

Let e be the direction of the part of g that is orthogonal to t. The length of that part is <g, e> >= 0, so
<g, t> > 0, and tan(angle) = <g, e> / <g, t> < tan theta. (If that part is 0, any e shows <g, t> > 0.)

For a cosine c = cos theta, the *angular score* of a sample is

    Q = (1 + sin(theta - phi)) / (1 + sin theta), and 0 where phi >= theta + pi / 2.

It lies in [0, 1] and rises with the score S = (1 + cos phi) / 2. Setting it to 0 only lowers it. So

    E[Q(x' + d)] > 1 / (1 + sin theta)   implies   cos(g(x'), t) > c.

Q is one scalar per sample, so the layer-cake bound (`smoothgate.certify.layer_cake`) says how far E[Q] falls
when x moves. Each cosine has one transform of Q. It is tuned on the selection split to the radius that is
expected, or to the eps of a target. The transform needs one lower confidence bound, which is a confidence
sequence like those of the inner product.

A cosine that is certified within a radius is certified for all smaller cosines too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from smoothgate.certify.fcsb import check_cosine, check_sigma, largest_delta
from smoothgate.certify.layer_cake import Expected, Moments, Transform
from smoothgate.certify.scores import MARGIN, Array, check_scores

#: Scores are dot products in float32. sin phi has an unbounded slope at S = 1, so each score is lowered by
#: more than their rounding error before its root is taken.
_SCORE_ERROR = 2.0**-20
# What holds within this distance holds at x. The layer-cake bound divides by it.
_LEAST_DELTA = 1e-6


def check_angular_cosine(cosine: float) -> float:
    """Return a cosine as a float; ValueError unless it lies in [0, 1)."""
    if check_cosine(cosine) < 0.0:
        raise ValueError(f"the cosine of an angular radius must not be negative, got {cosine!r}")
    return float(cosine)


def angular_scores(scores: Array, cosine: float) -> Array:
    """Q of each score S (n,), rounded down, in [0, 1]; the angle theta is that of `cosine`."""
    lowered = np.maximum(scores - _SCORE_ERROR, 0.0)
    cos_phi = 2.0 * lowered - 1.0
    sin_phi = 2.0 * np.sqrt(lowered * (1.0 - lowered))
    sin_theta = _sine(cosine)
    values = (1.0 + sin_theta * cos_phi - cosine * sin_phi) / (1.0 + sin_theta) - MARGIN
    # Beyond theta + pi / 2 the formula would rise again.
    return np.asarray(np.where(cos_phi <= -sin_theta, 0.0, np.clip(values, 0.0, 1.0)), dtype=np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class AngularTransform:
    """How the angular radius at one cosine is estimated; fixed before the first certification sample.

    Attributes:
        cosine: in [0, 1).
        transform: of the angular score, with its bets and its share of alpha.
    """

    cosine: float
    transform: Transform

    @classmethod
    def choose(
        cls,
        selection: npt.ArrayLike,
        n_certify: int,
        alpha: float,
        cosine: float,
        delta: float | None = None,
    ) -> AngularTransform:
        """The transform and bets for `n_certify` samples.

        Args:
            selection: scores S (n,) known before the first certification sample. If there are none, perfect
                scores are expected. They prove nothing.
            n_certify: the planned number of certification samples. A bound read at another number is also
                true.
            alpha: the share of this cosine in the error probability (`alpha.per_cosine`).
            cosine: to be certified, in [0, 1).
            delta: eps / sigma of the target; None: the transform is tuned to the radius that is expected.

        Raises:
            ValueError: a score that is not a number in [0, 1], n_certify < 1, or a cosine out of range.
        """
        given = np.asarray(selection, dtype=np.float64)
        scores = check_scores(given) if given.size else np.ones(1)
        values = angular_scores(scores, check_angular_cosine(cosine))
        expected = Expected.of(values, n_certify, alpha)
        return cls(cosine, expected.transform(expected.reach(_goal(cosine)) if delta is None else delta))

    def bound(self, scores: Array, further: int = 0) -> AngularBound:
        """What scores S (n,) and `further` more scores of 1 establish. It holds at any stopping time n."""
        best = float(angular_scores(np.ones(1), self.cosine)[0])
        lower = self.transform.lower(angular_scores(scores, self.cosine), further, best)
        return AngularBound(self.cosine, Moments((self.transform,), np.asarray([lower])))


@dataclass(frozen=True, slots=True, eq=False)
class AngularBound:
    """What certification establishes about the angle at one cosine.

    Attributes:
        cosine: in [0, 1).
        moments: the lower bound on the mean of the transform of Q.
    """

    cosine: float
    moments: Moments

    def holds_at(self, delta: float) -> bool:
        """Whether the cosine is certified for all x' within delta = eps / sigma of x."""
        return self._excess(delta) >= 0.0

    def radius(self, sigma: float) -> float | None:
        """An eps, close to the largest, at which the cosine is certified. None if it is not even at eps = 0.

        The bound is evaluated at the eps that is returned, so that an error of the search could only make the
        radius smaller.
        """
        delta = largest_delta(self._excess)
        return None if delta is None else check_sigma(sigma) * delta * (1.0 - MARGIN)

    def _excess(self, delta: float) -> float:
        """How far the lower bound on E[Q(x' + d)] is above what the theorem needs."""
        return self.moments.expected_score(max(delta, _LEAST_DELTA)) - _goal(self.cosine)


def _sine(cosine: float) -> float:
    return math.sqrt((1.0 - cosine) * (1.0 + cosine))


def _goal(cosine: float) -> float:
    """Above 1 / (1 + sin theta), so that E[Q(x' + d)] that equals it certifies the cosine."""
    return 1.0 / (1.0 + _sine(cosine)) + 10 * MARGIN
