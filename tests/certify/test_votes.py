import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from smoothgate.certify.votes import (
    Candidates,
    Tally,
    VoteCount,
    VoteStatement,
    VoteTerms,
    radius_of,
    reachable,
    smallest_budget,
)

TERMS = VoteTerms(sigma=1.0, alpha=0.001)

probabilities = st.floats(1e-6, 1 - 1e-6)


def counted(terms: VoteTerms, selection: Tally, votes: Tally, budget: int | None = None) -> VoteStatement:
    count = VoteCount(terms, selection, budget or votes.n)
    count.update(votes)
    return count.statement()


def test_the_most_frequent_answer_and_the_next_one_are_chosen() -> None:
    chosen = Candidates.of(["7", "1", "7", "9", "1", "7", "4"])
    assert (chosen.answer, chosen.runner_up) == ("7", "1")
    assert chosen.votes == Tally(hits=3, runner_up=2, rest=2)
    assert chosen.tally(["7", "7", "1", "8", "none"]) == Tally(hits=2, runner_up=1, rest=2)


def test_of_equally_frequent_answers_the_first_is_chosen() -> None:
    chosen = Candidates.of(["b", "a", "c", "a", "b"])
    assert (chosen.answer, chosen.runner_up) == ("b", "a")


def test_where_all_agree_there_is_no_runner_up() -> None:
    chosen = Candidates.of(["7", "7"])
    assert chosen.runner_up is None
    assert chosen.tally(["7", "1"]) == Tally(hits=1, rest=1)


def test_an_empty_selection_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Candidates.of([])


def test_the_one_sided_radius_is_sigma_times_the_quantile() -> None:
    radius = radius_of(0.9, 1 - 0.9, 0.5)
    assert radius is not None
    assert radius == pytest.approx(0.5 * special.ndtri(0.9), rel=1e-9)
    assert radius < 0.5 * special.ndtri(0.9)


def test_split_votes_have_a_radius_that_a_majority_would_not_have() -> None:
    """A has 45 % of the votes, and no other answer more than 20 %: the two-sided bound pays here."""
    statement = counted(TERMS, Tally(14, 6, 6), Tally(hits=9000, runner_up=4000, rest=4000))
    assert statement.p_low == pytest.approx(9 / 17, abs=0.02)
    assert statement.p_up == pytest.approx(4 / 17, abs=0.02)
    assert statement.radius is not None
    one_sided = radius_of(statement.p_low, 1 - statement.p_low, 1.0)
    assert one_sided is None or statement.radius > 4 * one_sided


@given(low=probabilities, up=probabilities, sigma=st.floats(0.01, 10))
def test_the_radius_is_where_both_probabilities_meet(low: float, up: float, sigma: float) -> None:
    radius = radius_of(low, up, sigma)
    if radius is None:
        assert low <= up or special.ndtri(low) - special.ndtri(up) < 1e-9
        return
    delta = radius / sigma
    assert special.ndtr(special.ndtri(low) - delta) >= special.ndtr(special.ndtri(up) + delta)


@pytest.mark.parametrize(
    ("low", "up"), [(math.nan, 0.1), (0.9, math.nan), (1.5, 0.1), (1.0, 0.1), (0.9, 0.0)]
)
def test_impossible_probabilities_are_refused(low: float, up: float) -> None:
    with pytest.raises(ValueError, match=r"probabilit"):
        radius_of(low, up, 1.0)


@given(hits=st.integers(0, 200), seconds=st.integers(0, 60), rest=st.integers(0, 60))
def test_every_further_hit_raises_the_bound_and_every_miss_lowers_it(
    hits: int, seconds: int, rest: int
) -> None:
    def state(tally: Tally) -> VoteStatement:
        return counted(TERMS, Tally(10, 3, 3), tally, 1000)

    now = state(Tally(hits, seconds, rest))
    assert state(Tally(hits + 1, seconds, rest)).p_low >= now.p_low - 1e-12
    assert state(Tally(hits, seconds + 1, rest)).p_low <= now.p_low + 1e-12
    assert now.p_low <= hits / max(1, hits + seconds + rest)
    others = max(seconds, rest) / max(1, hits + seconds + rest)
    assert now.p_up >= min(others, 1 - now.p_low) - 1e-12


def test_bounds_depend_on_the_numbers_of_votes_alone() -> None:
    whole, pieces = (VoteCount(TERMS, Tally(30, 1, 1), 300) for _ in range(2))
    whole.update(Tally(270, 20, 10))
    for part in (Tally(rest=10), Tally(runner_up=20), Tally(hits=200), Tally(hits=70)):
        pieces.update(part)
    assert whole.statement() == pieces.statement()


def test_without_a_vote_nothing_is_known() -> None:
    statement = VoteCount(TERMS, Tally(16), 100).statement()
    assert (statement.p_low, statement.p_up, statement.radius) == (0.0, 1.0, None)
    assert not statement.certified


@pytest.mark.parametrize(("radius", "n"), [(0.5, 21), (1.0, 44), (1.5, 110), (2.0, 328), (2.5, 1211)])
def test_the_smallest_budget_for_a_radius(radius: float, n: int) -> None:
    terms = VoteTerms(sigma=1.0, alpha=0.001, radius=radius)
    assert smallest_budget(terms, 16) == n
    assert reachable(terms, 16, n)
    assert not reachable(terms, 16, n - 1)
    # A tenth more than the ceiling alpha^(1/n) asks for.
    least = math.ceil(math.log(0.001) / math.log(special.ndtr(radius)))
    assert least < n <= 1.11 * least


def test_a_radius_of_many_sigmas_has_no_smallest_budget() -> None:
    assert smallest_budget(VoteTerms(sigma=1.0, alpha=0.001, radius=7.0), 16) is None


def test_sampling_ends_as_soon_as_the_radius_is_certified() -> None:
    terms = VoteTerms(sigma=0.5, alpha=0.001, radius=0.5)
    count = VoteCount(terms, Tally(16), 1000)
    while count.update(Tally(hits=1)) is None:
        pass
    assert (count.reason, count.tally.n) == ("certified", 44)
    assert count.statement().certified


def test_sampling_ends_where_no_further_hit_can_certify() -> None:
    terms = VoteTerms(sigma=0.5, alpha=0.001, radius=0.5)
    count = VoteCount(terms, Tally(16), 100)
    while count.update(Tally(rest=1)) is None:
        pass
    assert count.reason == "unreachable"
    assert count.tally.n < 15
    count.update(Tally(hits=100 - count.tally.n))
    assert not count.statement().certified


def test_sampling_ends_with_the_budget() -> None:
    count = VoteCount(TERMS, Tally(16), 10)
    assert count.update(Tally(hits=9)) is None
    assert count.update(Tally(hits=1)) == "budget"
    with pytest.raises(ValueError, match="budget"):
        count.update(Tally(hits=1))


@pytest.mark.parametrize(
    "bad",
    [
        {"sigma": 0.0},
        {"sigma": math.nan},
        {"alpha": 0.0},
        {"alpha": 1.0},
        {"radius": 0.0},
        {"radius": -1.0},
        {"radius": math.inf},
    ],
)
def test_bad_terms_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        VoteTerms(**({"sigma": 1.0, "alpha": 0.001} | bad))


def test_bad_votes_are_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        Tally(hits=-1)
    with pytest.raises(ValueError, match="budget"):
        VoteCount(TERMS, Tally(16), 0)


def test_a_split_selection_costs_tightness_and_not_truth() -> None:
    votes = Tally(hits=500)
    misled, right = counted(TERMS, Tally(8, 4, 4), votes), counted(TERMS, Tally(16), votes)
    assert misled.p_low < right.p_low < 1.0
    assert misled.p_low > 0.97


def test_a_statement_is_never_better_than_the_votes() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        votes = Tally(*rng.multinomial(100, [0.8, 0.15, 0.05]).tolist())
        statement = counted(TERMS, Tally(13, 2, 1), votes)
        assert statement.p_low < votes.hits / votes.n
        assert statement.p_up > max(votes.runner_up, votes.rest) / votes.n or statement.p_up == pytest.approx(
            1 - statement.p_low
        )
