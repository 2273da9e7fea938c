"""The angular radius: its theorem, on random and extremal encoders; how often it is wrong; and variants that
are wrong on purpose.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from smoothgate.certify.alpha import COSINES
from smoothgate.certify.angular import AngularTransform, angular_scores
from smoothgate.certify.evidence import Evidence
from smoothgate.certify.layer_cake import _Dual, _DualPoint
from smoothgate.certify.statement import Statement, Target, Terms, certify, evidence_for
from smoothgate.certify.stopping import StoppingRule

from .distributions import ALL, Array, Distribution, most_failures
from .test_coverage import capital_passed

ALPHA = 0.1
cosines = pytest.mark.parametrize("cosine", COSINES)


def needed(cosine: float) -> float:
    """The mean angular score above which the theorem holds."""
    return 1.0 / (1.0 + math.sqrt(1.0 - cosine**2))


def random_laws(rng: np.random.Generator, cosine: float) -> tuple[Array, Array]:
    """A random discrete law of unit features: probabilities (k,) and features (k, 4); t is the first axis."""
    k = int(rng.integers(2, 6))
    weights = rng.dirichlet(np.full(k, 0.5))
    angles = rng.uniform(0, np.pi, k) * rng.choice([0.1, 1.0], k)
    # Some of the features are at the angle at which the angular score is 0, all on the same side.
    angles[rng.random(k) < 0.3] = math.acos(cosine) + np.pi / 2
    sides = rng.normal(size=(k, 3)) * rng.choice([0.0, 1.0]) + np.array([1.0, 0.0, 0.0])
    sides /= np.linalg.norm(sides, axis=1, keepdims=True)
    return weights, np.column_stack([np.cos(angles), np.sin(angles)[:, None] * sides])


def violations(score: Callable[[Array, float], Array], cosine: float) -> int:
    """In how many of 2,000 random laws the mean score is above what is needed, and the cosine is too low."""
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(2000):
        weights, features = random_laws(rng, cosine)
        g = weights @ features
        scores = np.clip((1 + features[:, 0]) / 2, 0.0, 1.0)
        if weights @ score(scores, cosine) > needed(cosine):
            wrong += g[0] <= cosine * np.linalg.norm(g)
    return wrong


@cosines
def test_no_random_law_violates_the_theorem(cosine: float) -> None:
    assert violations(angular_scores, cosine) == 0


@cosines
def test_a_score_that_is_never_below_that_of_the_opposite_direction_is_caught(cosine: float) -> None:
    def wrong(scores: Array, cosine: float) -> Array:
        sine = math.sqrt(1 - cosine**2)
        return np.maximum(angular_scores(scores, cosine), (1 - sine) / (1 + sine))

    assert violations(wrong, cosine) > 0


@cosines
def test_the_theorem_is_tight(cosine: float) -> None:
    """Mass q at the angle theta + pi / 2 and the rest at t: the mean score is what is needed."""
    sine = math.sqrt(1 - cosine**2)
    q = sine / (1 + sine)
    g = (1 - q) * np.array([1.0, 0.0]) + q * np.array([-sine, cosine])
    assert g[0] / np.linalg.norm(g) == pytest.approx(cosine)
    scores = angular_scores(np.array([1.0, (1 - sine) / 2]), cosine)
    assert (1 - q) * scores[0] + q * scores[1] == pytest.approx(needed(cosine), abs=1e-2)
    assert (1 - q) * scores[0] + q * scores[1] <= needed(cosine)


@given(scores=st.lists(st.floats(0, 1), min_size=2), cosine=st.floats(0, 0.999))
def test_angular_scores_rise_with_scores_and_never_exceed_the_exact_ones(
    scores: list[float], cosine: float
) -> None:
    values = np.sort(np.array(scores))
    angular = angular_scores(values, cosine)
    assert ((angular >= 0) & (angular <= 1)).all()
    assert (np.diff(angular) >= -1e-12).all()
    theta, phi = math.acos(cosine), np.arccos(2 * values - 1)
    assert (angular <= np.maximum((1 + np.sin(theta - phi)) / (1 + math.sin(theta)), 0) + 1e-9).all()


# The exact case: with x in one dimension and sigma = 1, features turn by theta + pi / 2 beyond a plane. The
# probability of that is q at x. When x moves by delta towards the plane it is Phi(Phi^-1(q) + delta).


def beyond(cosine: float, q: float) -> float:
    """The distance at which the cosine of the exact case falls to `cosine`."""
    sine = math.sqrt(1 - cosine**2)
    return float(special.ndtri(sine / (1 + sine)) - special.ndtri(q))


def turned(rng: np.random.Generator, cosine: float, q: float, n: int) -> Array:
    """Scores of n samples of the exact case."""
    return np.where(rng.random(n) < q, (1 - math.sqrt(1 - cosine**2)) / 2, 1.0)


def misses(cosine: float, *, stated: float) -> int:
    """In how many of 1,000 runs the radius is beyond the truth, if sigma is overstated `stated` times."""
    rng, q = np.random.default_rng(1), 0.05
    transform = AngularTransform.choose(turned(rng, cosine, q, 64), 300, ALPHA, cosine)
    delta = math.nextafter(beyond(cosine, q), math.inf) / stated
    return sum(transform.bound(turned(rng, cosine, q, 300)).holds_at(delta) for _ in range(1000))


@pytest.mark.parametrize("cosine", [0.5, 0.8, 0.9])
def test_the_radius_is_seldom_beyond_the_truth(cosine: float) -> None:
    assert misses(cosine, stated=1.0) <= most_failures(1000, ALPHA)


@pytest.mark.parametrize("cosine", [0.5, 0.8, 0.9])
def test_a_sigma_overstated_by_a_third_is_caught(cosine: float) -> None:
    assert misses(cosine, stated=1.3) > most_failures(1000, ALPHA)


def test_the_radius_of_the_exact_case_is_close_to_the_truth() -> None:
    rng = np.random.default_rng(2)
    transform = AngularTransform.choose(turned(rng, 0.7, 0.05, 64), 100_000, ALPHA, 0.7)
    radius = transform.bound(turned(rng, 0.7, 0.05, 100_000)).radius(1.0)
    assert radius is not None
    assert beyond(0.7, 0.05) - 0.05 < radius <= beyond(0.7, 0.05)


def test_a_false_target_is_rarely_certified() -> None:
    """The target is just beyond the truth, so the rule is wrong whenever it says `certified`."""
    cosine, q, alpha = 0.7, 0.05, 0.5
    target = Target(cosine, beyond(cosine, q) + 1e-3)
    terms = Terms(sigma=1.0, alpha=alpha, eps=(target.eps,), target=target, cosines=COSINES)
    rng = np.random.default_rng(3)
    runs, wrong = 80, 0
    for _ in range(runs):
        rule = StoppingRule(terms, turned(rng, cosine, q, 24), 400)
        while rule.reason is None:
            rule.update(turned(rng, cosine, q, min(50, rule.budget - rule.n)))
        wrong += rule.reason == "certified"
    assert wrong <= most_failures(runs, alpha)


def moments_of(evidence: Evidence, law: Distribution) -> list[float]:
    """The true means of all transforms of score and angular scores, from above by less than 1e-3."""
    grid = np.linspace(0.0, 1.0, 20001)
    survival = law.survival(grid[:-1])
    values = [t.apply(grid) for t in evidence.transforms]
    values += [a.transform.apply(angular_scores(grid, a.cosine)) for a in evidence.angular]
    return [float(v[0] + np.diff(v) @ survival) for v in values]


@pytest.mark.parametrize("law", ALL, ids=lambda law: law.name)
def test_everything_that_a_certificate_reports_holds_at_once(law: Distribution) -> None:
    """A radius or a bound can be wrong only if one of the means is. Such runs are counted."""
    rng = np.random.default_rng(4)
    terms = Terms(sigma=1.0, alpha=ALPHA, eps=(1.0,), cosines=COSINES)
    runs, failures = 500, 0
    for _ in range(5):
        evidence = evidence_for(terms, law.draw(rng, (24,)), 40)
        means = moments_of(evidence, law)
        for scores in law.draw(rng, (runs // 5, 40)):
            values = [t.apply(scores) for t in evidence.transforms]
            values += [a.transform.apply(angular_scores(scores, a.cosine)) for a in evidence.angular]
            transforms = [*evidence.transforms, *(a.transform for a in evidence.angular)]
            failures += any(
                capital_passed(t.bets, v, t.alpha, mean)
                for t, v, mean in zip(transforms, values, means, strict=True)
            )
    assert failures <= most_failures(runs, ALPHA)


# What certificates say.


def made(n: int = 1024, shape: tuple[float, float] = (194, 6), target: Target | None = None) -> Statement:
    rng = np.random.default_rng(0)
    terms = Terms(sigma=0.5, alpha=0.001, eps=(0.25, 0.5), chance_cosine=0.1, target=target, cosines=COSINES)
    return certify(terms, rng.beta(*shape, 64), rng.beta(*shape, n))


def test_radii_are_reported_by_cosine_and_fall_with_it() -> None:
    statement = made()
    assert tuple(a.cosine for a in statement.angular) == COSINES
    radii = [a.radius or 0.0 for a in statement.angular]
    assert radii == sorted(radii, reverse=True)
    assert statement.radius_angular == radii[0]
    assert statement.radius == radii[0] > (statement.radius_layer_cake or 0.0)
    assert statement.served == "angular"


def test_a_quarter_of_the_samples_says_what_the_inner_product_said_at_a_cosine_of_0_7() -> None:
    rng = np.random.default_rng(0)
    selection, scores = rng.beta(194, 6, 64), rng.beta(194, 6, 1024)
    terms = Terms(sigma=1.0, alpha=0.001, eps=(0.5,), cosine_threshold=0.7)
    before = certify(terms, selection, scores).radius
    now = certify(replace(terms, cosines=COSINES), selection, scores[:256]).radius
    assert before is not None
    assert now is not None
    assert now >= before


def test_a_target_has_the_whole_part_of_the_angle() -> None:
    wanted = Target(0.7, 0.8)
    statement = made(target=wanted)
    (only,) = statement.angular
    assert only.cosine == 0.7
    assert only.radius is not None
    among = next(a.radius for a in made().angular if a.cosine == 0.7)
    assert among is not None
    assert only.radius > among


def test_the_angle_meets_a_target_that_the_bound_misses() -> None:
    statement = made(target=Target(0.7, 0.8))
    assert statement.target_bound is not None
    assert statement.target_bound < 0.7
    assert statement.angular[0].radius is not None
    assert statement.angular[0].radius >= 0.8
    assert statement.outcome == "certified"
    assert made(target=Target(0.7, 1.2)).outcome == "abstained"


def test_the_angle_alone_can_separate_from_unrelated_images() -> None:
    rng = np.random.default_rng(0)
    terms = Terms(sigma=0.5, alpha=0.001, eps=(0.9,), chance_cosine=0.45)
    scores = rng.beta(194, 6, 64), rng.beta(194, 6, 1024)
    assert certify(terms, *scores).outcome == "vacuous"
    assert certify(replace(terms, cosines=COSINES), *scores).outcome == "bounded"


def test_sampling_stops_earlier_than_without_the_angle() -> None:
    rng = np.random.default_rng(0)
    selection, scores = rng.beta(194, 6, 64), rng.beta(194, 6, 4096)
    drawn = []
    for chosen in ((), COSINES):
        terms = Terms(sigma=1.0, alpha=0.001, eps=(1.0,), target=Target(0.7, 1.0), cosines=chosen)
        rule = StoppingRule(terms, selection, 4096)
        while rule.reason is None:
            rule.update(scores[rule.n : rule.n + 16])
        assert rule.reason == "certified"
        assert rule.statement().outcome == "certified"
        drawn.append(rule.n)
    assert drawn[1] < 0.5 * drawn[0]


@pytest.mark.parametrize("cosine", [0.0, 0.3, 0.999])
def test_hopeless_scores_have_no_radius(cosine: float) -> None:
    transform = AngularTransform.choose([0.5] * 8, 100, 0.001, cosine)
    assert transform.bound(np.full(100, 0.4)).radius(1.0) is None
    assert transform.bound(np.empty(0)).radius(1.0) is None


def test_bad_cosines_are_refused() -> None:
    for bad in ((1.0,), (-0.1,), (math.nan,), (0.7, 0.5), (0.5, 0.5)):
        with pytest.raises(ValueError, match="cosine"):
            Terms(sigma=1.0, alpha=0.001, eps=(0.5,), cosines=bad)


def test_without_a_selection_score_perfect_ones_are_expected() -> None:
    """A single selection sample has no score: there is no earlier one to hold it against."""
    scores = np.full(64, 0.98)
    without = certify(Terms(sigma=0.5, alpha=0.001, eps=(0.1,), cosines=COSINES), [], scores)
    perfect = certify(Terms(sigma=0.5, alpha=0.001, eps=(0.1,), cosines=COSINES), [1.0], scores)
    assert without.angular == perfect.angular


@pytest.mark.parametrize(("a", "b"), [(60, 2), (20, 3), (5, 5)])
@pytest.mark.parametrize("delta", [0.1, 0.5, 1.5])
def test_the_search_ends_at_the_maximum(a: float, b: float, delta: float) -> None:
    """With one transform, the maximum of (3) over mu can be found on a grid."""
    rng = np.random.default_rng(0)
    transform = AngularTransform.choose(rng.beta(a, b, 64), 256, 1e-4, 0.5)
    moments = transform.bound(rng.beta(a, b, 256)).moments
    multiples = np.geomspace(1e-4, 1e4, 20_001)[:, None]
    on_grid = float(_DualPoint.at(_Dual(moments.transforms, moments.lowers), multiples, delta).value.max())
    assert moments.expected_score(delta) == pytest.approx(max(on_grid, 0.0), abs=2e-6)
