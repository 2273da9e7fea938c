"""What a certificate states about one image: from scores to bounds, a radius and an outcome.

The statement is

    score_lower <= s(x), and for every eps >= 0 and every x' with ||x' - x||_2 <= eps:
    <g(x'), t> >= FCSB(eps), and cos(g(x'), t) >= c for every listed cosine c whose angular radius is at
    least eps.

For any selection split it is true with probability at least 1 - alpha over the certification noise. It holds
at all eps of the list, on the whole curve, at all cosines and at the radius at once. alpha is this image's
share of the request's error probability. `smoothgate.certify.alpha` splits it further.

The first of these outcomes that applies is stated:

* `vacuous`: even at the smallest eps asked for, no cosine above both 0 and the chance cosine (95th percentile
  of the cosine of unrelated images) is certified, or that cosine was not measured at this sigma. The
  certificate is true and is not known to say anything.
* `abstained`: the request has a target, a cosine at an eps. Neither the served bound at that eps nor the
  angular radius at that cosine reaches it.
* `certified`: what is certified separates x' from unrelated images, and the target is met.
* `bounded`: what is certified separates x' from unrelated images, and there is no target.

A target "radius r at cosine c" is the target "cosine c at eps = r".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy.typing as npt

from smoothgate.certify import fcsb
from smoothgate.certify.alpha import check_alpha, inner, per_cosine
from smoothgate.certify.angular import AngularBound, AngularTransform, check_angular_cosine
from smoothgate.certify.evidence import Established, Evidence
from smoothgate.certify.fcsb import BoundName, Point
from smoothgate.certify.layer_cake import Moments, choose_transforms
from smoothgate.certify.scores import check_scores

Outcome = Literal["certified", "bounded", "abstained", "vacuous"]
VacuousBecause = Literal["not calibrated", "not above chance"]

#: Number of points on the curve, which goes from eps = 0 to where the served bound reaches 0.
CURVE_POINTS = 25
# A target must be below 1.
_HIGHEST_GOAL = 1.0 - 1e-9
# The search for the smallest budget ends at this number of samples.
_MOST_SAMPLES = 1 << 40


class BudgetTooSmall(ValueError):
    """A number of certification samples that cannot reach its goal, even if every score is 1.

    Attributes:
        smallest: the smallest number that could, or None if no number could.
    """

    def __init__(self, message: str, smallest: int | None) -> None:
        super().__init__(message)
        self.smallest = smallest


@dataclass(frozen=True, slots=True)
class Target:
    """What a request asks to be certified: the cosine is at least `cosine` within `eps`."""

    cosine: float
    eps: float

    def __post_init__(self) -> None:
        fcsb.check_cosine(self.cosine)
        fcsb.check_eps(self.eps)


@dataclass(frozen=True, slots=True)
class Terms:
    """What the certificate of one image is asked for.

    Attributes:
        sigma: standard deviation of the noise, in pixels of [0, 1].
        alpha: this image's share of the error probability (`alpha.per_image`).
        eps: l2 radii at which the bounds are reported, positive and ascending, at least one.
        cosine_threshold: the cosine at which the certified radius is reported.
        chance_cosine: 95th percentile of the cosine of unrelated images at this sigma; None: it is not known.
        target: what the request asks to be certified, or None.
        cosines: at which angular radii are reported, in [0, 1) and ascending. If there are none, the inner
            product has all of alpha.

    Raises:
        ValueError: a value outside its range.
    """

    sigma: float
    alpha: float
    eps: tuple[float, ...]
    cosine_threshold: float = 0.5
    chance_cosine: float | None = 0.0
    target: Target | None = None
    cosines: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        fcsb.check_sigma(self.sigma)
        check_alpha(self.alpha)
        fcsb.check_cosine(self.cosine_threshold)
        if self.chance_cosine is not None and not -1.0 <= self.chance_cosine <= 1.0:
            raise ValueError(f"a chance cosine must lie between -1 and 1, got {self.chance_cosine!r}")
        if not self.eps or self.eps[0] <= 0.0 or list(self.eps) != sorted(set(self.eps)):
            raise ValueError(f"eps must be positive, ascending and at least one, got {self.eps}")
        for eps in self.eps:
            fcsb.check_eps(eps)
        for cosine in self.cosines:
            check_angular_cosine(cosine)
        if list(self.cosines) != sorted(set(self.cosines)):
            raise ValueError(f"cosines must be ascending, got {self.cosines}")

    @property
    def angular_cosines(self) -> tuple[float, ...]:
        """The cosines that have a share of alpha: the target's alone, where there is one."""
        if not self.cosines:
            return ()
        if self.target is not None:
            return (max(self.target.cosine, 0.0),)
        return tuple(sorted({*self.cosines, max(self.cosine_threshold, 0.0)}))

    @property
    def floor(self) -> float:
        """The bound says something only if it is above this cosine."""
        return max(self.chance_cosine or 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class AngularRadius:
    """How far an image may move while a cosine stays certified by the angle; None if not even at eps = 0."""

    cosine: float
    radius: float | None


@dataclass(frozen=True, slots=True)
class Statement:
    """What is established, in numbers that JSON can hold.

    Attributes:
        terms: what was asked for.
        n_certify: number of fresh samples that the bounds are computed from.
        score_estimate: mean of the certification scores, in [0, 1]. It is an estimate, not a bound.
        score_lower: lower bound on the mean score s(x).
        points: both bounds at each eps of the terms.
        curve: both bounds on an even grid from eps = 0 to where the served bound reaches 0.
        radius_mean: radius at the cosine threshold by the mean bound, or None if the bound is below the
            threshold even at eps = 0.
        radius_layer_cake: the same by the layer-cake bound.
        angular: the radius at each of `terms.angular_cosines`.
        target_bound: the served bound at the target's eps; None without a target.
        outcome: see the module.
        vacuous_because: why the outcome is `vacuous`; None: it is not.
    """

    terms: Terms
    n_certify: int
    score_estimate: float
    score_lower: float
    points: tuple[Point, ...]
    curve: tuple[Point, ...]
    radius_mean: float | None
    radius_layer_cake: float | None
    angular: tuple[AngularRadius, ...]
    target_bound: float | None
    outcome: Outcome
    vacuous_because: VacuousBecause | None

    @property
    def radius(self) -> float | None:
        """The served radius at the cosine threshold: the largest of the three."""
        radii = (self.radius_mean, self.radius_layer_cake, self.radius_angular)
        return max((r for r in radii if r is not None), default=None)

    @property
    def radius_angular(self) -> float | None:
        """The radius at the cosine threshold by the angle."""
        return angular_radius(self.angular, self.terms.cosine_threshold)

    @property
    def served(self) -> BoundName:
        """Which bound gives the served radius. Without a radius: which is served at the smallest eps."""
        if self.radius is None:
            return self.points[0].served
        if self.radius == self.radius_mean:
            return "mean"
        return "layer_cake" if self.radius == self.radius_layer_cake else "angular"


def angular_radius(angular: tuple[AngularRadius, ...], cosine: float) -> float | None:
    """The radius at a cosine: the largest at this or any higher cosine. None if there is none."""
    return max((a.radius for a in angular if a.cosine >= cosine and a.radius is not None), default=None)


def certified_cosine(point: Point, angular: tuple[AngularRadius, ...]) -> float:
    """The cosine that is certified at the eps of a point, by the bound or by the angle."""
    reached = (a.cosine for a in angular if a.radius is not None and a.radius >= point.eps)
    return max(point.value, *reached, -1.0)


def evidence_for(terms: Terms, selection: npt.ArrayLike, budget: int) -> Evidence:
    """Evidence without scores, whose transforms and bets are chosen for `budget` samples.

    Args:
        terms: say which cosines have a share of alpha, and the target.
        selection: scores of the selection samples.
        budget: planned number of certification samples.

    Raises:
        ValueError: a score that is not a number in [0, 1], or a budget below 1.
    """
    cosines, target = terms.angular_cosines, terms.target
    delta = None if target is None else fcsb.delta_of(target.eps, terms.sigma)
    return Evidence(
        choose_transforms(selection, budget, inner(terms.alpha, len(cosines))),
        tuple(
            AngularTransform.choose(selection, budget, per_cosine(terms.alpha, len(cosines)), cosine, delta)
            for cosine in cosines
        ),
    )


def certify(
    terms: Terms, selection: npt.ArrayLike, certification: npt.ArrayLike, budget: int | None = None
) -> Statement:
    """The statement from the scores S = (1 + <u, t>) / 2 of both splits.

    Args:
        terms: what is asked for.
        selection: scores of the selection samples. They choose transforms and bets (`evidence_for`).
        certification: scores of fresh samples, in the order drawn (n_certify,).
        budget: the number of samples that transforms and bets are chosen for; None: n_certify.

    Raises:
        ValueError: a score that is not a number in [0, 1], or no certification score.
    """
    scores = check_scores(certification)
    evidence = evidence_for(terms, selection, budget or scores.size)
    evidence.update(scores)
    return state(terms, evidence)


def state(terms: Terms, evidence: Evidence) -> Statement:
    """The statement from certification scores and what they establish; ValueError before the first score."""
    scores, established = check_scores(evidence.scores), evidence.established
    moments = established.moments
    sigma, cosine, target = terms.sigma, terms.cosine_threshold, terms.target
    points = tuple(fcsb.point(moments, eps, sigma) for eps in terms.eps)
    target_bound = None if target is None else fcsb.point(moments, target.eps, sigma).value
    is_met = None if target is None else reaches(established, target, sigma)
    angular = tuple(_angular_radius(bound, terms) for bound in established.angular)
    outcome, because = outcome_of(certified_cosine(points[0], angular), terms.chance_cosine, is_met)
    return Statement(
        terms=terms,
        n_certify=scores.size,
        score_estimate=float(scores.mean()),
        score_lower=moments.score_lower,
        points=points,
        curve=_curve(moments, sigma),
        radius_mean=fcsb.mean_radius(moments.score_lower, cosine, sigma),
        radius_layer_cake=fcsb.layer_cake_radius(moments, cosine, sigma),
        angular=angular,
        target_bound=target_bound,
        outcome=outcome,
        vacuous_because=because,
    )


def outcome_of(
    cosine: float, chance_cosine: float | None, is_met: bool | None
) -> tuple[Outcome, VacuousBecause | None]:
    """The outcome, and why it is `vacuous` if it is.

    Args:
        cosine: certified at the smallest eps, by the bound or by the angle.
        chance_cosine: of the terms.
        is_met: whether the target is met; None: there is no target.
    """
    if chance_cosine is None:
        return "vacuous", "not calibrated"
    if cosine <= max(chance_cosine, 0.0):
        return "vacuous", "not above chance"
    if is_met is None:
        return "bounded", None
    return ("certified" if is_met else "abstained"), None


def reaches(established: Established, target: Target, sigma: float) -> bool:
    """Whether the served bound or the angle meets the target."""
    if fcsb.point(established.moments, target.eps, sigma).value >= target.cosine:
        return True
    delta = fcsb.delta_of(target.eps, sigma)
    return any(bound.cosine >= target.cosine and bound.holds_at(delta) for bound in established.angular)


def require_reachable(terms: Terms, n_certify: int) -> None:
    """Check that a budget can do what it is for if every score is 1.

    The goal is the target. Without a target it is to exceed the chance cosine at the smallest eps.

    Raises:
        BudgetTooSmall: the budget cannot reach the goal.
    """
    goal = terms.target or Target(min(terms.floor, _HIGHEST_GOAL), terms.eps[0])
    if _reachable(terms, goal, n_certify):
        return
    smallest = _smallest_budget(terms, goal, n_certify)
    if smallest is None:
        raise BudgetTooSmall(
            f"a cosine of {goal.cosine:.4g} at eps = {goal.eps:.4g} cannot be certified with sigma = "
            f"{terms.sigma:.4g}: eps is too many times sigma",
            None,
        )
    raise BudgetTooSmall(
        f"{n_certify} samples cannot certify a cosine of {goal.cosine:.4g} at eps = {goal.eps:.4g} with "
        f"sigma = {terms.sigma:.4g} and alpha = {terms.alpha:.4g}, even with perfect scores; "
        f"the smallest number that could is {smallest}",
        smallest,
    )


def _smallest_budget(terms: Terms, goal: Target, too_few: int) -> int | None:
    """The smallest number of samples above `too_few` that reaches the goal with perfect scores."""
    high = too_few
    while not _reachable(terms, goal, high):
        if high > _MOST_SAMPLES:
            return None
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _reachable(terms, goal, middle) else (middle, high)
    return high


def _reachable(terms: Terms, goal: Target, n: int) -> bool:
    """Whether n certification scores of 1, after selection scores of 1, reach the goal."""
    return reaches(evidence_for(terms, [1.0], n).established_if_perfect(n), goal, terms.sigma)


def _angular_radius(bound: AngularBound, terms: Terms) -> AngularRadius:
    """The radius at the bound's cosine. It agrees with `reaches` at the target's eps to the last digit."""
    radius, target = bound.radius(terms.sigma), terms.target
    if radius is not None and target is not None:
        if bound.holds_at(fcsb.delta_of(target.eps, terms.sigma)):
            radius = max(radius, target.eps)
        else:
            radius = min(radius, math.nextafter(target.eps, 0.0))
    return AngularRadius(bound.cosine, radius)


def _curve(moments: Moments, sigma: float) -> tuple[Point, ...]:
    radii = (fcsb.mean_radius(moments.score_lower, 0.0, sigma), fcsb.layer_cake_radius(moments, 0.0, sigma))
    end = max((radius for radius in radii if radius is not None), default=0.0)
    if end == 0.0:
        return (fcsb.point(moments, 0.0, sigma),)
    return tuple(fcsb.point(moments, end * i / (CURVE_POINTS - 1), sigma) for i in range(CURVE_POINTS))
