import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smoothgate.certify.betting import Bets, betting
from smoothgate_lab.benchmarks.comparison_bounds import ceiling, empirical_bernstein, hoeffding

scores = st.lists(st.floats(0, 1), min_size=1, max_size=40)
alphas = st.floats(1e-6, 0.5)


@given(values=scores, alpha=alphas)
def test_the_bound_is_where_the_capital_reaches_one_over_alpha(values: list[float], alpha: float) -> None:
    bets, array = Bets.spread(), np.array(values)
    lower = bets.lower(array, alpha)
    goal = math.log(1 / alpha)
    if lower > 0.0:
        assert bets.log_capital(lower, array)[0] >= goal
    else:
        assert not array.any() or bets.log_capital(1e-12, array)[0] < goal
    if 0.0 < lower < 1.0 - 1e-6:
        assert bets.log_capital(lower * (1 + 1e-6) + 1e-12, array)[0] < goal + 1e-4


@given(values=scores, mean=st.floats(0.01, 1))
def test_capital_is_that_of_betting_sample_by_sample(values: list[float], mean: float) -> None:
    bets = Bets.spread()
    capital = 0.0
    for fraction, weight in zip(bets.fractions, bets.weights, strict=True):
        stake = weight
        for value in values:
            stake *= 1 - fraction + fraction * value / mean
        capital += stake
    assert math.exp(bets.log_capital(mean, np.array(values))[0]) == pytest.approx(capital, rel=1e-6)


@given(mean=st.floats(0.05, 0.95), values=st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_the_expected_capital_after_one_round_is_one(mean: float, values: list[float]) -> None:
    """Expected capital after one round is 1 when the mean is m, for any two-point law."""
    bets = Bets.spread()
    low, high = min(values), max(values)
    if not low < mean < high:
        return
    p = (mean - low) / (high - low)
    after = [math.exp(bets.log_capital(mean, np.array([value]))[0]) for value in (low, high)]
    assert (1 - p) * after[0] + p * after[1] == pytest.approx(1.0, rel=1e-6)


def test_weights_sum_to_at_most_one_and_fractions_are_below_one() -> None:
    for bets in (Bets.spread(), Bets.chosen(np.array([0.9, 0.8]), 100, 0.01)):
        assert sum(bets.weights) <= 1 + 1e-12
        assert all(0 < fraction < 1 for fraction in bets.fractions)


def test_chosen_bets_come_close_to_the_ceiling_for_perfect_scores() -> None:
    ones = np.ones(1000)
    assert Bets.chosen(ones, 1000, 0.01).lower(ones, 0.01) >= ceiling(1000, 0.005)


@pytest.mark.parametrize("shape", [(194, 6), (14, 6), (1, 1)])
def test_betting_beats_the_classical_bounds(shape: tuple[float, float]) -> None:
    rng = np.random.default_rng(0)
    values = rng.beta(*shape, 1024)
    assert betting(values, 1e-3) > max(hoeffding(values, 1e-3), empirical_bernstein(values, 1e-3))


def test_a_score_of_zero_does_not_lose_all_capital() -> None:
    values = np.concatenate([np.zeros(1), np.ones(400)])
    assert betting(values, 1e-3) > 0.9


def test_the_bound_of_zeros_alone_is_zero() -> None:
    assert betting(np.zeros(100), 0.05) == 0.0


def test_with_a_misleading_selection_the_bound_is_true_and_less_tight() -> None:
    rng = np.random.default_rng(0)
    values = rng.beta(14, 6, 2000)
    misled = Bets.chosen(np.ones(50), 2000, 1e-3).lower(values, 1e-3)
    assert 0.6 < misled < values.mean()
