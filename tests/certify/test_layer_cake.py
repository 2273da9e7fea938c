import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special

from smoothgate.certify.alpha import TILTS, per_tilt
from smoothgate.certify.evidence import Evidence
from smoothgate.certify.layer_cake import Moments, Transform, choose_transforms
from smoothgate_lab.benchmarks.comparison_bounds import ceiling

from .distributions import ALL, Array, Distribution, atoms, beta

deltas = st.floats(0.01, 4)
scores = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def truth(transforms: tuple[Transform, ...], distribution: Distribution) -> Moments:
    """The moments themselves in place of bounds on them: what infinitely many samples would establish."""
    means = [distribution.moment(t.thresholds, t.slopes) / t.scale for t in transforms]
    return Moments(transforms, np.array(means))


@given(values=scores)
def test_transforms_are_monotone_maps_of_the_unit_interval(values: list[float]) -> None:
    grid = np.linspace(0, 1, 200)
    for transform in choose_transforms(values, 100, 0.01):
        image = transform.apply(grid)
        assert image[0] == 0.0
        assert image[-1] == 1.0
        assert np.all(np.diff(image) >= 0.0)


@given(values=scores)
def test_the_first_transform_is_the_score_itself(values: list[float]) -> None:
    transform = choose_transforms(values, 100, 0.01)[0]
    assert TILTS[0] == 0.0
    np.testing.assert_allclose(transform.apply(np.array(values)), values, atol=1e-12)


def test_each_transform_has_its_share_of_alpha() -> None:
    assert [transform.alpha for transform in choose_transforms([0.9, 0.8], 100, 0.01)] == list(per_tilt(0.01))


@pytest.mark.parametrize("distribution", ALL, ids=lambda d: d.name)
@pytest.mark.parametrize("delta", [0.05, 0.3, 1.0, 2.0, 3.5])
def test_with_exact_moments_the_bound_is_true(distribution: Distribution, delta: float) -> None:
    rng = np.random.default_rng(0)
    for n in (30, 1000, 30000):
        moments = truth(choose_transforms(distribution.draw(rng, (64,)), n, 0.01), distribution)
        assert moments.expected_score(delta) <= distribution.layer_cake(delta) + 1e-9


@pytest.mark.parametrize("delta", [0.3, 0.5, 1.0, 1.5, 2.0])
def test_with_exact_moments_the_bound_is_close_to_the_layer_cake(delta: float) -> None:
    for distribution, slack in (
        (beta(14, 6), 0.03),
        (beta(3, 2), 0.04),
        (atoms((0.2, 0.3), (0.9, 0.7)), 0.01),
    ):
        selection = distribution.draw(np.random.default_rng(0), (2000,))
        moments = truth(choose_transforms(selection, 10**6, 0.01), distribution)
        assert moments.expected_score(delta) >= distribution.layer_cake(delta) - slack


@settings(max_examples=60)
@given(
    values=st.lists(st.floats(0, 1), min_size=1, max_size=5, unique=True),
    weights=st.lists(st.floats(0.01, 1), min_size=5, max_size=5),
    selection=scores,
    n=st.integers(1, 10**5),
    delta=deltas,
)
def test_the_bound_is_true_for_any_discrete_law_and_any_selection(
    values: list[float], weights: list[float], selection: list[float], n: int, delta: float
) -> None:
    total = sum(weights[: len(values)])
    law = [(value, weight / total) for value, weight in zip(values, weights, strict=False)]
    distribution = atoms(*law)
    order = sorted(law, reverse=True)
    # The worst shift: mass moves from the highest scores to the lowest, as Neyman and Pearson say.
    tops = np.minimum(np.cumsum([0.0] + [weight for _, weight in order]), 1.0)
    shifted = special.ndtr(special.ndtri(tops) - delta)
    exact = float(np.diff(shifted) @ [value for value, _ in order]) + order[-1][0] * (1.0 - shifted[-1])
    moments = truth(choose_transforms(selection, n, 0.01), distribution)
    assert moments.expected_score(delta) <= exact + 1e-9


@settings(max_examples=60)
@given(
    selection=scores,
    lowers=st.lists(st.floats(0, 0.999), min_size=3, max_size=3),
    first=deltas,
    second=deltas,
)
def test_the_bound_falls_with_the_distance(
    selection: list[float], lowers: list[float], first: float, second: float
) -> None:
    moments = Moments(choose_transforms(selection, 500, 0.01), np.array(lowers))
    near, far = sorted((first, second))
    assert moments.expected_score(far) <= moments.expected_score(near) + 1e-6  # what the search is good for


@settings(max_examples=60)
@given(
    selection=scores,
    lowers=st.lists(st.floats(0, 0.999), min_size=3, max_size=3),
    rise=st.lists(st.floats(0, 1), min_size=3, max_size=3),
    delta=deltas,
)
def test_higher_moments_never_lower_the_bound(
    selection: list[float], lowers: list[float], rise: list[float], delta: float
) -> None:
    transforms = choose_transforms(selection, 500, 0.01)
    higher = [lower + share * (0.999 - lower) for lower, share in zip(lowers, rise, strict=True)]
    before = Moments(transforms, np.array(lowers)).expected_score(delta)
    assert Moments(transforms, np.array(higher)).expected_score(delta) >= before - 1e-6


@settings(max_examples=60)
@given(values=scores, selection=scores, delta=deltas, alpha=st.floats(1e-5, 0.2))
def test_never_above_the_ceiling_nor_below_the_mean_bound(
    values: list[float], selection: list[float], delta: float, alpha: float
) -> None:
    evidence = Evidence(choose_transforms(selection, len(values), alpha))
    evidence.update(values)
    bound = evidence.established.moments.expected_score(delta)
    assert bound <= special.ndtr(special.ndtri(ceiling(len(values), alpha)) - delta)
    score = evidence.established.moments.score_lower
    assert bound >= special.ndtr(special.ndtri(score) - delta) - 1e-8


@pytest.mark.parametrize("shape", [(194, 6), (14, 6), (2, 2)])
def test_the_search_finds_the_maximum(shape: tuple[float, float]) -> None:
    """Against a general-purpose optimiser, from several starts."""
    rng = np.random.default_rng(0)
    evidence = Evidence(choose_transforms(rng.beta(*shape, 64), 1000, 0.001))
    evidence.update(rng.beta(*shape, 1000))
    moments = evidence.established.moments
    slopes = np.stack([transform.slopes / transform.scale for transform in moments.transforms])
    widths = np.diff(moments.transforms[0].thresholds)
    for delta in (0.1, 0.7, 1.5, 3.0):

        def loss(mu: Array, delta: float = delta) -> float:
            y = np.maximum(mu @ slopes, 1e-300)
            z = np.log(y) / delta + delta / 2
            return float(widths @ (y * special.ndtr(z) - special.ndtr(z - delta)) - mu @ moments.lowers)

        starts = [np.eye(3)[0], np.eye(3)[1], np.eye(3)[2], np.ones(3)]
        found = [
            optimize.minimize(
                loss, start, method="L-BFGS-B", bounds=[(0, None)] * 3, options={"maxfun": 5000}
            ).fun
            for start in starts
        ]
        assert moments.expected_score(delta) == pytest.approx(-min(found), abs=1e-5)


def test_at_distance_zero_the_bound_is_that_on_the_score() -> None:
    moments = Moments(choose_transforms([0.9, 0.8], 100, 0.01), np.array([0.7, 0.7, 0.7]))
    assert moments.expected_score(0.0) == 0.7


def test_many_selection_scores_and_none_are_accepted() -> None:
    rng = np.random.default_rng(0)
    assert choose_transforms(rng.random(5000), 100, 0.01)[0].slopes.size <= 130
    assert choose_transforms([], 100, 0.01)[1].scale > 0.0


def test_bad_input_is_refused() -> None:
    for bad in ([math.nan], [1.5]):
        with pytest.raises(ValueError, match="score"):
            choose_transforms(bad, 100, 0.01)
    with pytest.raises(ValueError, match="n_certify"):
        choose_transforms([0.5], 0, 0.01)
    with pytest.raises(ValueError, match="alpha"):
        choose_transforms([0.5], 10, 0.0)
