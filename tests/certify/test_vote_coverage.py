"""Vote certificates are false no more often than they state, in thousands of simulated runs of known laws.

A run is a miss if at *any* time one of its three bounds is beyond the truth: an adversary would stop then.
The last tests apply the same measure to certificates that are wrong on purpose.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
from scipy import special, stats

from smoothgate.certify.alpha import per_vote
from smoothgate.certify.votes import Candidates, Tally, VoteCount, VoteStatement, VoteTerms, radius_of

from .distributions import most_failures

RUNS = 5000
ALPHA = 0.1
SELECT, BUDGET = 8, 48
TERMS = VoteTerms(sigma=1.0, alpha=ALPHA)

Answers = npt.NDArray[np.intp]

#: Probabilities of the answers.
LAWS = {
    "two answers": (0.9, 0.1),
    "two close ones": (0.55, 0.45),
    "a tie": (0.5, 0.5),
    "a tie of three": (1 / 3, 1 / 3, 1 / 3),
    "nearly sure": (0.995, 0.005),
    "at the ceiling": (0.09 ** (1 / BUDGET), 1 - 0.09 ** (1 / BUDGET)),
    "sure": (1.0, 0.0),
    "three answers": (0.6, 0.3, 0.1),
    "one of many": (0.55, *(0.05,) * 9),
    "all different": (0.02,) * 50,
}

each_law = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)


@cache
def stated(selection: Tally, votes: Tally) -> VoteStatement:
    """What is stated after some votes. Runs repeat them, so each is computed once."""
    count = VoteCount(TERMS, selection, BUDGET)
    count.update(votes)
    return count.statement()


def paths(chosen: Candidates[int], answers: Answers) -> list[Tally]:
    """The tally after each sample."""
    hits = (answers == chosen.answer).cumsum()
    seconds = (answers == chosen.runner_up).cumsum() if chosen.runner_up is not None else np.zeros_like(hits)
    return [
        Tally(int(hit), int(second), n - int(hit) - int(second))
        for n, (hit, second) in enumerate(zip(hits, seconds, strict=True), 1)
    ]


def false(statement: VoteStatement, chosen: Candidates[int], law: tuple[float, ...]) -> bool:
    others = max((p for answer, p in enumerate(law) if answer != chosen.answer), default=0.0)
    return statement.p_low > law[chosen.answer] or statement.p_up < others


def drawn(law: tuple[float, ...], seed: int = 1) -> tuple[Answers, Answers]:
    answers = np.random.default_rng(seed).choice(len(law), size=(RUNS, SELECT + BUDGET), p=law)
    return answers[:, :SELECT], answers[:, SELECT:]


@each_law
def test_a_statement_is_true_at_all_times(law: tuple[float, ...]) -> None:
    misses = 0
    for selection, answers in zip(*drawn(law), strict=True):
        chosen = Candidates.of(selection.tolist())
        misses += any(false(stated(chosen.votes, votes), chosen, law) for votes in paths(chosen, answers))
    assert misses <= most_failures(RUNS, ALPHA)


@each_law
def test_no_radius_is_larger_than_the_exact_one(law: tuple[float, ...]) -> None:
    """The exact radius is that of the worst classifier with these probabilities: (1) with the truth in it."""
    misses = 0
    for selection, answers in zip(*drawn(law, seed=2), strict=True):
        chosen = Candidates.of(selection.tolist())
        first, second = law[chosen.answer], max(p for at, p in enumerate(law) if at != chosen.answer)
        exact = float(special.ndtri(first) - special.ndtri(second)) / 2
        misses += any(
            (stated(chosen.votes, votes).radius or 0.0) > max(exact, 0.0) for votes in paths(chosen, answers)
        )
    assert misses <= most_failures(RUNS, ALPHA)


def test_it_is_caught_if_the_answer_is_chosen_on_the_certification_split() -> None:
    law = LAWS["all different"]
    misses = 0
    for _, answers in zip(*drawn(law), strict=True):
        chosen = Candidates.of(answers.tolist())
        misses += any(false(stated(Tally(), votes), chosen, law) for votes in paths(chosen, answers))
    assert misses > most_failures(RUNS, ALPHA)


def test_it_is_caught_if_a_bound_for_a_fixed_number_is_read_at_all_times() -> None:
    p, (share, *_) = 0.9, per_vote(ALPHA)
    hits = (np.random.default_rng(1).random((RUNS, BUDGET)) < p).cumsum(axis=1)
    n = np.arange(1, BUDGET + 1)
    lower = stats.beta.ppf(share, hits, n - hits + 1)
    misses = (np.where(hits > 0, lower, 0.0) > p).any(axis=1).sum()
    assert misses > most_failures(RUNS, ALPHA)


@pytest.mark.parametrize(("overstated", "caught"), [(1.0, False), (1.3, True)])
def test_the_worst_classifier_shows_whether_sigma_is_true(overstated: float, caught: bool) -> None:
    """A half-space: F(z) says A where z < c. A shift by c makes it a tie, a larger one turns the answer."""
    sigma, c, n, runs = 0.5, 0.6, 4000, 500
    rng = np.random.default_rng(1)
    misses = 0
    for _ in range(runs):
        hits = int((sigma * rng.standard_normal(n) < c).sum())
        count = VoteCount(VoteTerms(sigma=overstated * sigma, alpha=ALPHA), Tally(SELECT), n)
        count.update(Tally(hits=hits, rest=n - hits))
        radius = count.statement().radius
        misses += radius is not None and float(special.ndtr((c - radius) / sigma)) < 0.5
    assert (misses > most_failures(runs, ALPHA)) is caught


def test_exact_probabilities_give_the_exact_radius_of_the_half_space() -> None:
    sigma, c = 0.5, 0.6
    p = float(special.ndtr(c / sigma))
    assert radius_of(p, 1 - p, sigma) == pytest.approx(c, rel=1e-9)
