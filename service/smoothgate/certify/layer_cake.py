"""The layer-cake bound, written with means: one bound at every eps from a few bounded averages.

Write G(tau) = P(S(x + d) >= tau) for the survival function of the scores at x, delta = eps / sigma, and

    psi(p) = Phi(Phi^-1(p) - delta),   psi*(y) = sup_p (y p - psi(p)) = y Phi(z) - Phi(z - delta),
                                        z = log(y) / delta + delta / 2.

The layer-cake bound (Kumar et al. 2020; the Neyman-Pearson lemma applied to each event {S >= tau})
is

    E[S(x' + d)]  >=  integral_0^1 psi(G(tau)) dtau          for every x' with ||x' - x||_2 <= eps.      (1)

psi is convex, so psi(p) >= y p - psi*(y) for *every* slope y >= 0 (Fenchel-Young). Take any function t >= 0
on [0, 1] and let T(s) = integral_0^s t(tau) dtau. Inserting the inequality into (1) and exchanging the
integrals gives

    E[S(x' + d)]  >=  E[T(S(x + d))] - integral_0^1 psi*(t(tau)) dtau.                                   (2)

(2) needs no survival function, only the *mean of one bounded transform of the score*. The betting bound
estimates that without a union over thresholds. (2) is an equality if t = psi'(G). So t is chosen on the
selection split, from the survival function that the certification samples are expected to leave possible. A
poor choice makes the bound less tight, but never wrong. With constant t, (2) is the paper's mean bound:
maximising y s - psi*(y) over y gives psi(s). For mixtures t = sum_j mu_j t_j, mu >= 0, of transforms whose
means have lower bounds b_j,

    E[S(x' + d)]  >=  max_mu  sum_j mu_j b_j - integral psi*(sum_j mu_j t_j)                             (3)

holds at every eps at once if all b_j hold, so whole curves and radii need no further share of alpha. (3) is
concave in mu. Any mu gives a true bound, so an error in the search for the best mu does no harm.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from smoothgate.certify.alpha import TILTS, check_alpha, per_tilt
from smoothgate.certify.betting import Bets
from smoothgate.certify.scores import MARGIN, Array, check_scores

#: Most thresholds. With more selection scores than that, the thresholds are their quantiles.
_MAX_THRESHOLDS = 128
_LEAST, _MOST = 1e-12, 1.0 - 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Transform:
    """One non-decreasing, piecewise linear transform T of the score, scaled into [0, 1], and its bets.

    Attributes:
        thresholds: tau_0 = 0 < ... < tau_m = 1, shape (m + 1,).
        slopes: t on each of the m layers, non-negative, shape (m,).
        alpha: the error probability of the bound on E[T(S)].
        bets: the stakes of that bound.
    """

    thresholds: Array
    slopes: Array
    alpha: float
    bets: Bets

    @property
    def heights(self) -> Array:
        """T at the thresholds, shape (m + 1,)."""
        return np.concatenate([[0.0], np.cumsum(self.slopes * np.diff(self.thresholds))])

    @property
    def scale(self) -> float:
        """T(1)."""
        return float(self.heights[-1])

    def apply(self, scores: Array) -> Array:
        """T(s) / T(1) of each score, in [0, 1]; shape (n,)."""
        heights = self.heights
        scaled = np.interp(scores, self.thresholds, heights / heights[-1])
        return np.asarray(np.clip(scaled, 0.0, 1.0), dtype=np.float64)

    def lower(self, scores: Array, further: int = 0, best: float = 1.0) -> float:
        """The lower bound on E[T(S)] / T(1) after scores (n,) and `further` more scores of `best`.

        It holds at any stopping time n. Without any score it is 0.
        """
        if not further:
            return self.bets.lower(self.apply(scores), self.alpha) if scores.size else 0.0
        counts = np.append(np.ones_like(scores), float(further))
        return self.bets.lower(self.apply(np.append(scores, best)), self.alpha, counts)


def choose_transforms(selection: npt.ArrayLike, n_certify: int, alpha: float) -> tuple[Transform, ...]:
    """The transforms and bets for `n_certify` samples, one of each for each of `alpha.TILTS`.

    Args:
        selection: scores (n,) known before the first certification sample, as similar as possible to those of
            certification. If there are none, perfect scores are expected. They prove nothing.
        n_certify: the planned number of certification samples. A bound read at another number is also true.
        alpha: the share of the inner product in this image's error probability.

    Raises:
        ValueError: a score that is not a number in [0, 1], n_certify < 1, alpha not in (0, 1).
    """
    given = np.asarray(selection, dtype=np.float64)
    scores = check_scores(given) if given.size else np.ones(1)
    check_alpha(alpha)
    shares = zip(TILTS, per_tilt(alpha), strict=True)
    return tuple(Expected.of(scores, n_certify, share).transform(tilt) for tilt, share in shares)


@dataclass(frozen=True, slots=True, eq=False)
class Expected:
    """The scores that certification is expected to draw. They choose a transform before the first draw.

    Attributes:
        scores: of the selection split, at most `_MAX_THRESHOLDS`.
        thresholds: tau_0 = 0 < ... < tau_m = 1, shape (m + 1,).
        left_standing: alpha^(1/n) G at the thresholds after the first, shape (m,). G is the survival function
            of the selection scores. After n samples it remains possible that scores of 0 have a probability
            of 1 - alpha^(1/n), and tangents are taken at that possibility.
        n_certify, alpha: of the bound to come.
    """

    scores: Array
    thresholds: Array
    left_standing: Array
    n_certify: int
    alpha: float

    @classmethod
    def of(cls, selection: Array, n_certify: int, alpha: float) -> Expected:
        """From selection scores in [0, 1] (n,); ValueError if n_certify < 1."""
        if n_certify < 1:
            raise ValueError(f"n_certify must be at least 1, got {n_certify}")
        scores = selection
        if scores.size > _MAX_THRESHOLDS:
            ranks = (np.arange(_MAX_THRESHOLDS) + 0.5) / _MAX_THRESHOLDS
            scores = np.asarray(np.quantile(scores, ranks, method="inverted_cdf"), dtype=np.float64)
        thresholds = np.unique(np.concatenate([[0.0], scores, [1.0]]))
        survival = (scores[None, :] >= thresholds[1:, None]).mean(axis=1)
        left_standing = np.clip(survival * alpha ** (1.0 / n_certify), _LEAST, _MOST)
        return cls(scores, thresholds, left_standing, n_certify, alpha)

    def transform(self, tilt: float) -> Transform:
        """The best transform at delta = tilt, with slopes psi'(P) = exp(tilt Phi^-1(P) - tilt^2 / 2), and its
        bets.
        """
        slopes = np.exp(tilt * special.ndtri(self.left_standing) - tilt**2 / 2.0)
        plain = Transform(self.thresholds, slopes, self.alpha, Bets.spread())
        bets = Bets.chosen(plain.apply(self.scores), self.n_certify, self.alpha)
        return Transform(self.thresholds, slopes, self.alpha, bets)

    def reach(self, goal: float) -> float:
        """The delta up to which (1) is expected to stay at least `goal`; 0 if it is below it everywhere."""
        widths, quantiles = np.diff(self.thresholds), special.ndtri(self.left_standing)

        def excess(delta: float) -> float:
            return float(widths @ special.ndtr(quantiles - delta)) - goal

        return float(optimize.brentq(excess, 0.0, 40.0, xtol=1e-6)) if excess(0.0) > 0.0 else 0.0


@dataclass(frozen=True, eq=False)
class Moments:
    """What certification establishes: lower bounds on the means of the transforms. All of them are true with
    probability at least 1 - alpha.

    Attributes:
        transforms: from `choose_transforms`, one for each tilt. The first is the identity. An angular radius
            has one transform, which need not be the identity; it does not use `score_lower`.
        lowers: a lower bound on E[T_j(S)] / T_j(1) for each, shape (J,).
    """

    transforms: tuple[Transform, ...]
    lowers: Array

    @property
    def score_lower(self) -> float:
        """The lower bound on the mean score s(x)."""
        return float(self.lowers[0])

    def expected_score(self, delta: float) -> float:
        """A lower bound on E[S(x' + d)] for all x' within delta = eps / sigma of x, by (3), rounded down.

        The search ends within about 1e-6 of the maximum of (3), always below it.
        """
        if delta <= 0.0:
            return self.score_lower
        return self._dual.best(delta)

    @cached_property
    def _dual(self) -> _Dual:
        return _Dual(self.transforms, self.lowers)


class _Dual:
    """(3), a concave function of mu at every delta, and its maximiser."""

    def __init__(self, transforms: tuple[Transform, ...], lowers: Array) -> None:
        # Each transform is scaled to T(1) = 1, so that all entries of mu have the same unit.
        self.slopes = np.stack([transform.slopes / transform.scale for transform in transforms])
        self.widths = np.diff(transforms[0].thresholds)
        self.lowers = lowers
        self.quantiles = special.ndtri(np.clip(lowers, _LEAST, _MOST))

    def best(self, delta: float) -> float:
        """Newton's method from the best single transform. Each step is a non-negative quadratic programme."""
        # Each single transform with the multiple psi'(b_j) that is right for the identity.
        singles = _DualPoint.at(self, np.diag(np.exp(delta * self.quantiles - delta**2 / 2.0)), delta)
        here = _DualPoint.at(self, singles.mu[np.argmax(singles.value)], delta)
        for _ in range(12):
            step = here.newton() - here.mu
            ahead = _DualPoint.at(self, here.mu + step, delta)
            while ahead.value < here.value and float(np.abs(step).max()) > 1e-9:
                step = step / 2.0
                ahead = _DualPoint.at(self, here.mu + step, delta)
            if ahead.value <= here.value + 1e-9:
                break
            here = ahead
        return max(float(here.value), 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class _DualPoint:
    """(3) at one delta and at one mu (J,), or at several (K, J).

    Attributes:
        dual: the function.
        mu: where it is.
        delta: eps / sigma.
        y: the slopes of the mixture, with an entry for each layer.
        z: as in psi*(y).
        standing: Phi(z).
        value: the bound for this mu, rounded down by more than its rounding error.
    """

    dual: _Dual
    mu: Array
    delta: float
    y: Array
    z: Array
    standing: Array
    value: Array

    @classmethod
    def at(cls, dual: _Dual, mu: Array, delta: float) -> _DualPoint:
        """The function at mu."""
        y = mu @ dual.slopes
        z = np.log(np.maximum(y, 1e-300)) / delta + delta / 2.0
        standing = special.ndtr(z)
        direct = mu @ dual.lowers
        paid = (y * standing) @ dual.widths
        gained = special.ndtr(z - delta) @ dual.widths
        value = direct - paid + gained - 10 * MARGIN * (1.0 + direct + paid + gained)
        return cls(dual, mu, delta, y, z, standing, value)

    def newton(self) -> Array:
        """The maximiser over mu >= 0 of the second-order model of (3) at one mu."""
        dual = self.dual
        gradient = dual.lowers - dual.slopes @ (dual.widths * self.standing)
        density = np.exp(-np.square(self.z) / 2.0) / np.sqrt(2.0 * np.pi)
        curvature = dual.widths * density / (self.delta * np.maximum(self.y, 1e-300))
        if len(self.mu) == 1:
            # As below, without the cost of three solvers: an angular radius takes dozens of these steps.
            bend = float(np.square(dual.slopes[0]) @ curvature)
            return np.maximum(self.mu + gradient / (bend * (1.0 + 1e-9) + 1e-12), 0.0)
        hessian = (dual.slopes * curvature) @ dual.slopes.T
        hessian += (1e-9 * float(np.trace(hessian)) + 1e-12) * np.eye(len(self.mu))
        root = np.linalg.cholesky(hessian)
        target = np.linalg.solve(root, gradient + hessian @ self.mu)
        solution, _ = optimize.nnls(root.T, target)
        return np.asarray(solution, dtype=np.float64)
