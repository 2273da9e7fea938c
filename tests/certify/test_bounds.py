import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from smoothgate.certify.betting import betting
from smoothgate_lab.benchmarks.comparison_bounds import (
    ceiling,
    clopper_pearson,
    empirical_bernstein,
    hoeffding,
)

Bound = Callable[[npt.ArrayLike, float], float]

BOUNDS: list[Bound] = [hoeffding, empirical_bernstein, betting]
scores = st.lists(st.floats(0, 1), min_size=1, max_size=40)
alphas = st.floats(1e-6, 0.5)


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("bad", [[math.nan], [0.5, math.nan], [1.0 + 1e-9], [-1e-9], [math.inf], [], [[0.5]]])
def test_invalid_scores_are_refused(bound: Bound, bad: list[float] | list[list[float]]) -> None:
    with pytest.raises(ValueError, match="score"):
        bound(bad, 0.05)


@pytest.mark.parametrize("bound", BOUNDS)
@given(values=scores, alpha=alphas)
def test_bounds_stay_below_the_mean_and_the_ceiling(bound: Bound, values: list[float], alpha: float) -> None:
    lower = bound(values, alpha)
    assert 0.0 <= lower <= 1.0
    assert lower <= np.mean(values) + 1e-12
    assert lower <= ceiling(len(values), alpha)


@pytest.mark.parametrize("bound", [hoeffding, betting])
@given(values=scores, alpha=alphas, data=st.data())
def test_higher_scores_never_lower_the_bound(
    bound: Bound, values: list[float], alpha: float, data: st.DataObject
) -> None:
    raised = [data.draw(st.floats(value, 1)) for value in values]
    assert bound(raised, alpha) >= bound(values, alpha) - 1e-9


@pytest.mark.parametrize("bound", BOUNDS)
@given(values=scores, alpha=st.floats(1e-6, 0.2))
def test_repeating_the_scores_never_lowers_the_bound(bound: Bound, values: list[float], alpha: float) -> None:
    assert bound(values * 2, alpha) >= bound(values, alpha) - 1e-9


@given(values=scores, alpha=st.floats(1e-6, 0.2), factor=st.floats(0.1, 1))
def test_more_confidence_never_raises_the_bound(values: list[float], alpha: float, factor: float) -> None:
    for bound in BOUNDS:
        assert bound(values, alpha * factor) <= bound(values, alpha) + 1e-9


def test_hoeffding_and_bernstein_are_the_formulas() -> None:
    values = np.array([0.9, 1.0, 0.8, 0.95] * 50)
    assert hoeffding(values, 0.05) == pytest.approx(values.mean() - math.sqrt(math.log(20) / 400), abs=1e-9)
    log = math.log(40)
    expected = values.mean() - math.sqrt(2 * values.var(ddof=1) * log / 200) - 7 * log / (3 * 199)
    assert empirical_bernstein(values, 0.05) == pytest.approx(expected, abs=1e-9)


@given(n=st.integers(1, 500), share=st.floats(0, 1), alpha=alphas)
def test_clopper_pearson_inverts_the_binomial_tail(n: int, share: float, alpha: float) -> None:
    successes = round(share * n)
    lower = clopper_pearson(successes, n, alpha)
    assert lower <= ceiling(n, alpha)
    if successes == 0:
        assert lower == 0.0
    else:
        assert stats.binom.sf(successes - 1, n, lower) <= alpha * (1 + 1e-6)
        assert stats.binom.sf(successes - 1, n, min(lower + 1e-6, 1.0)) >= alpha * (1 - 1e-6)


@pytest.mark.parametrize(("successes", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_clopper_pearson_refuses_impossible_counts(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        clopper_pearson(successes, n, 0.05)


def test_the_ceiling_of_zero_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="n must"):
        ceiling(0, 0.05)
