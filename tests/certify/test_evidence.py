import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smoothgate.certify.angular import AngularTransform
from smoothgate.certify.betting import betting
from smoothgate.certify.evidence import Established, Evidence
from smoothgate.certify.layer_cake import choose_transforms

scores = st.lists(st.floats(0, 1), min_size=1, max_size=40)
alphas = st.floats(1e-6, 0.5)


def evidence(n: int = 40, alpha: float = 0.01) -> Evidence:
    selection = np.random.default_rng(0).beta(14, 6, 64)
    angular = AngularTransform.choose(selection, n, alpha, 0.5)
    return Evidence(choose_transforms(selection, n, alpha), (angular,))


def angular_lower(established: Established) -> float:
    return float(established.angular[0].moments.lowers[0])


@given(values=scores, alpha=alphas, cuts=st.lists(st.integers(0, 40), max_size=4))
def test_bounds_depend_on_the_scores_and_not_on_the_updates(
    values: list[float], alpha: float, cuts: list[int]
) -> None:
    whole, pieces = evidence(alpha=alpha), evidence(alpha=alpha)
    whole.update(values)
    edges = sorted({0, len(values), *(cut for cut in cuts if cut < len(values))})
    for start, end in pairwise(edges):
        pieces.update(values[start:end])
    assert pieces.n == len(values)
    assert pieces.scores.tolist() == values
    assert pieces.established.moments.lowers.tolist() == whole.established.moments.lowers.tolist()
    assert angular_lower(pieces.established) == angular_lower(whole.established)
    identity = whole.transforms[0]
    assert whole.established.moments.score_lower == betting(
        identity.apply(np.array(values)), identity.alpha, identity.bets
    )


@given(values=scores, alpha=alphas, further=st.integers(0, 50))
def test_no_continuation_is_better_than_perfect_scores(
    values: list[float], alpha: float, further: int
) -> None:
    known = evidence(alpha=alpha)
    known.update(values)
    perfect = known.established_if_perfect(further)
    foreseen = perfect.moments.lowers
    assert (foreseen >= known.established.moments.lowers).all()
    assert angular_lower(perfect) >= angular_lower(known.established)
    if further:
        known.update(np.ones(further))
    np.testing.assert_allclose(foreseen, known.established.moments.lowers, atol=1e-9)
    np.testing.assert_allclose(angular_lower(perfect), angular_lower(known.established), atol=1e-9)


def test_before_the_first_score_all_bounds_are_zero() -> None:
    nothing = evidence(10)
    assert nothing.established.moments.lowers.tolist() == [0.0, 0.0, 0.0]
    assert nothing.established.moments.expected_score(0.5) == 0.0
    assert nothing.established_if_perfect(100).moments.score_lower > 0.9


@pytest.mark.parametrize("bad", [1.5, math.nan])
def test_an_update_with_a_bad_score_changes_nothing(bad: float) -> None:
    known = evidence(10)
    with pytest.raises(ValueError, match="score"):
        known.update([0.5, bad])
    assert known.n == 0
    assert known.established.moments.score_lower == 0.0


def test_scores_are_kept_when_their_buffer_is_used_again() -> None:
    known, buffer = evidence(), np.array([0.5, 0.75])
    known.update(buffer)
    buffer[:] = 0.0
    assert known.scores.tolist() == [0.5, 0.75]
