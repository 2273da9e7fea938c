import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smoothgate.certify.betting import Bets, BettingSequence, betting
from smoothgate_lab.benchmarks.comparison_bounds import ceiling, empirical_bernstein, hoeffding

scores = st.lists(st.floats(0, 1), min_size=1, max_size=40)
alphas = st.floats(1e-6, 0.5)


@given(values=scores, alpha=alphas)
def test_the_bound_is_where_the_capital_reaches_one_over_alpha(values, alpha) -> None:
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
def test_capital_is_that_of_betting_sample_by_sample(values, mean) -> None:
    bets = Bets.spread()
    capital = 0.0
    for fraction, weight in zip(bets.fractions, bets.weights, strict=True):
        stake = weight
        for value in values:
            stake *= 1 - fraction + fraction * value / mean
        capital += stake
    assert math.exp(bets.log_capital(mean, np.array(values))[0]) == pytest.approx(capital, rel=1e-6)


@given(mean=st.floats(0.05, 0.95), values=st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_the_game_is_fair(mean, values) -> None:
    """Expected capital after one round is 1 when the mean is m, for any two-point law."""
    bets = Bets.spread()
    low, high = min(values), max(values)
    if not low < mean < high:
        return
    p = (mean - low) / (high - low)
    after = [math.exp(bets.log_capital(mean, np.array([value]))[0]) for value in (low, high)]
    assert (1 - p) * after[0] + p * after[1] == pytest.approx(1.0, rel=1e-6)


def test_no_more_than_the_whole_capital_is_staked() -> None:
    for bets in (Bets.spread(), Bets.tuned(np.array([0.9, 0.8]), 100, 0.01)):
        assert sum(bets.weights) <= 1 + 1e-12
        assert all(0 < fraction < 1 for fraction in bets.fractions)


@settings(max_examples=50)
@given(values=scores, alpha=alphas, cuts=st.lists(st.integers(0, 40), max_size=4))
def test_a_sequence_depends_on_the_scores_alone(values, alpha, cuts) -> None:
    sequence = BettingSequence(alpha)
    assert sequence.lower == 0.0
    edges = sorted({0, len(values), *(cut for cut in cuts if cut < len(values))})
    for start, end in pairwise(edges):
        sequence.update(values[start:end])
    assert sequence.n == len(values)
    assert sequence.scores.tolist() == values
    assert sequence.lower == betting(values, alpha)


@settings(max_examples=50)
@given(values=scores, alpha=alphas, further=st.integers(0, 50))
def test_perfect_scores_are_the_best_that_can_come(values, alpha, further) -> None:
    sequence = BettingSequence(alpha)
    sequence.update(values)
    foreseen = sequence.lower_if_perfect(further)
    assert foreseen >= sequence.lower
    if further:
        sequence.update(np.ones(further))
    assert foreseen == pytest.approx(sequence.lower, abs=1e-9)


def test_tuned_bets_come_close_to_the_ceiling_for_perfect_scores() -> None:
    ones = np.ones(1000)
    assert Bets.tuned(ones, 1000, 0.01).lower(ones, 0.01) >= ceiling(1000, 0.005)


@pytest.mark.parametrize("shape", [(194, 6), (14, 6), (1, 1)])
def test_betting_beats_the_classical_bounds(shape) -> None:
    rng = np.random.default_rng(0)
    values = rng.beta(*shape, 1024)
    assert betting(values, 1e-3) > max(hoeffding(values, 1e-3), empirical_bernstein(values, 1e-3))


def test_a_score_of_zero_does_not_end_the_game() -> None:
    values = np.concatenate([np.zeros(1), np.ones(400)])
    assert betting(values, 1e-3) > 0.9


def test_only_zeros_prove_nothing() -> None:
    assert betting(np.zeros(100), 0.05) == 0.0


def test_a_misleading_selection_costs_tightness_not_truth() -> None:
    rng = np.random.default_rng(0)
    values = rng.beta(14, 6, 2000)
    misled = Bets.tuned(np.ones(50), 2000, 1e-3).lower(values, 1e-3)
    assert 0.6 < misled < values.mean()


def test_nan_is_refused_by_the_sequence() -> None:
    sequence = BettingSequence(0.05)
    with pytest.raises(ValueError, match="score"):
        sequence.update([0.5, math.nan])
    assert sequence.n == 0
