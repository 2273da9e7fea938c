"""The vote certificate: a radius within which the most probable *answer* does not change.

F(z) is the answer to one noisy copy z = x + d, d ~ N(0, sigma^2 I): the whole way from pixels through encoder
and language model to a canonical text. F may be random. For every answer a,

    p_a(x) = P(F(x + d) = a) = E[q_a(x + d)],   q_a(z) = P(F(z) = a) in [0, 1],

and sigma Phi^-1(p_a(.)) is 1-Lipschitz in l2 (Salman et al. 2019, Lemma 2; Cohen et al. 2019, Theorem 1, for
a deterministic F). Let p_low <= p_A(x), and let p_up be at least the probability of every other answer. If
p_low > p_up, then A is the most probable answer at every x' with

    ||x' - x||_2  <  R = sigma / 2 (Phi^-1(p_low) - Phi^-1(p_up)).                                        (1)

p_up = 1 - p_low is always true, and (1) is then sigma Phi^-1(p_low). Free text has no list of the other
answers. The selection split therefore names a runner-up C, and every other answer is C or among the rest:
p_up may be the larger one of the upper bounds on p_C and on the probability of the rest. The smaller p_up of
the two is used. x stacks the canvases of all images of a request, so that R is the radius of one joint ball.

A and C are chosen on the selection split. The certification samples are fresh. Each of them is a hit (A), a
vote for C, or one of the rest. Each of the three probabilities has a confidence sequence: the betting bound
(`smoothgate.certify.betting`) on zeros and ones. `alpha.per_vote` shares alpha among the three, so that
everything here holds at once, after any number of samples.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar

import numpy as np
from scipy import special

from smoothgate.certify.alpha import per_vote
from smoothgate.certify.betting import Bets
from smoothgate.certify.fcsb import check_sigma
from smoothgate.certify.scores import MARGIN, Array
from smoothgate.certify.stopping import StopReason

A = TypeVar("A", bound=Hashable)

_BITS = np.array([1.0, 0.0])
# The search for the smallest budget ends at this number of samples: R / sigma is then above 6.
_MOST_SAMPLES = 1 << 34


@dataclass(frozen=True, slots=True)
class Candidates(Generic[A]):
    """What the selection split chooses.

    Attributes:
        answer: A, the most frequent answer; of equally frequent ones, the one that came first.
        runner_up: C, the next one; None if all agree.
        votes: selection samples that say A, C, and neither.
    """

    answer: A
    runner_up: A | None
    votes: Tally

    @classmethod
    def of(cls, answers: Sequence[A]) -> Candidates[A]:
        """The candidates among the answers of the selection split; ValueError if there are none."""
        if not answers:
            raise ValueError("there must be at least one selection sample")
        # Counter keeps the order in which answers came, and sorts stably.
        (answer, hits), *others = Counter(answers).most_common(2)
        runner_up, seconds = others[0] if others else (None, 0)
        return cls(answer, runner_up, Tally(hits, seconds, len(answers) - hits - seconds))

    def tally(self, answers: Iterable[A]) -> Tally:
        """How many answers are A, C, and neither."""
        hits = seconds = rest = 0
        for answer in answers:
            if answer == self.answer:
                hits += 1
            elif self.runner_up is not None and answer == self.runner_up:
                seconds += 1
            else:
                rest += 1
        return Tally(hits, seconds, rest)


@dataclass(frozen=True, slots=True)
class Tally:
    """Numbers of samples that say A, that say C, and that say neither."""

    hits: int = 0
    runner_up: int = 0
    rest: int = 0

    def __post_init__(self) -> None:
        if min(self.hits, self.runner_up, self.rest) < 0:
            raise ValueError(f"numbers of votes cannot be negative, got {self}")

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.hits + other.hits, self.runner_up + other.runner_up, self.rest + other.rest)

    @property
    def n(self) -> int:
        """Number of samples."""
        return self.hits + self.runner_up + self.rest


@dataclass(frozen=True, slots=True)
class VoteTerms:
    """What is asked for.

    Attributes:
        sigma: standard deviation of the noise, in pixels of [0, 1].
        alpha: error probability of the statement.
        radius: l2 radius in which the answer is to hold; sampling may stop when it is certified. None: all
            samples of the budget are drawn.

    Raises:
        ValueError: a value outside its range.
    """

    sigma: float
    alpha: float
    radius: float | None = None

    def __post_init__(self) -> None:
        check_sigma(self.sigma)
        per_vote(self.alpha)
        if self.radius is not None and not (math.isfinite(self.radius) and self.radius > 0.0):
            raise ValueError(f"a radius to certify must be positive, got {self.radius!r}")


@dataclass(frozen=True, slots=True)
class VoteStatement:
    """What is established.

    Attributes:
        terms: what was asked for.
        tally: of the certification samples.
        p_low: lower bound on p_A.
        p_up: upper bound on the probability of every other answer.
        radius: R, rounded down; None: p_low is not above p_up, so that nothing is certified.
    """

    terms: VoteTerms
    tally: Tally
    p_low: float
    p_up: float
    radius: float | None

    @property
    def certified(self) -> bool:
        """Whether the answer holds within a positive radius, and within the one that was asked for."""
        return self.radius is not None and self.radius >= (self.terms.radius or 0.0)


class VoteCount:
    """Counts certification votes, bounds their probabilities, and says when to stop.

    The bounds depend on the numbers of votes alone, so that a certificate can be recomputed from them.

    Args:
        terms: what is asked for.
        selection: votes of the selection split. They choose the bets and prove nothing.
        budget: most certification samples, at least 1.
    """

    def __init__(self, terms: VoteTerms, selection: Tally, budget: int) -> None:
        if budget < 1:
            raise ValueError(f"budget must be at least 1, got {budget}")
        self.terms = terms
        self.budget = budget
        self.tally = Tally()
        self._shares = per_vote(terms.alpha)
        counts = (selection.hits, selection.n - selection.runner_up, selection.n - selection.rest)
        self._bets = tuple(
            _bets(ones, selection.n, budget, share) for ones, share in zip(counts, self._shares, strict=True)
        )
        self._reason: StopReason | None = None

    @property
    def reason(self) -> StopReason | None:
        """Why sampling should end, or None if it should go on."""
        return self._reason

    def update(self, votes: Tally) -> StopReason | None:
        """Take in further votes and return `reason`. Votes that come after a reason was given still count.

        Raises:
            ValueError: more votes than the budget.
        """
        if self.tally.n + votes.n > self.budget:
            raise ValueError(f"more votes than the budget of {self.budget}")
        self.tally = self.tally + votes
        if self._reason is None:
            self._reason = self._look()
        return self._reason

    def statement(self) -> VoteStatement:
        """The statement that holds now."""
        return self._state(self.tally)

    def statement_if_unanimous(self, further: int) -> VoteStatement:
        """The statement after `further` more hits. No continuation can do better."""
        return self._state(self.tally + Tally(hits=further))

    def _state(self, tally: Tally) -> VoteStatement:
        ones = (tally.hits, tally.n - tally.runner_up, tally.n - tally.rest)
        lower, not_runner_up, not_rest = (
            _lower(bets, count, tally.n, share)
            for bets, count, share in zip(self._bets, ones, self._shares, strict=True)
        )
        upper = min(1.0 - lower, max(1.0 - not_runner_up, 1.0 - not_rest) * (1.0 + MARGIN))
        return VoteStatement(self.terms, tally, lower, upper, radius_of(lower, upper, self.terms.sigma))

    def _look(self) -> StopReason | None:
        wanted = self.terms.radius
        if wanted is not None and self.statement().certified:
            return "certified"
        left = self.budget - self.tally.n
        if left == 0:
            return "budget"
        if wanted is not None and not self.statement_if_unanimous(left).certified:
            return "unreachable"
        return None


def radius_of(p_low: float, p_up: float, sigma: float) -> float | None:
    """(1), rounded down, or None if p_low is not above p_up."""
    check_sigma(sigma)
    if not (0.0 <= p_low <= 1.0 and 0.0 <= p_up <= 1.0):
        raise ValueError(f"probabilities must lie in [0, 1], got {p_low!r} and {p_up!r}")
    if p_low >= 1.0 or p_up <= 0.0:
        raise ValueError("no number of samples shows a probability of 0 or 1")
    low, up = float(special.ndtri(p_low)), float(special.ndtri(p_up))
    radius = sigma / 2.0 * (low - up)
    radius -= 10.0 * MARGIN * sigma * (1.0 + abs(low) + abs(up))
    return radius if radius > 0.0 else None


def smallest_budget(terms: VoteTerms, selection: int, too_few: int = 0) -> int | None:
    """The smallest number of certification samples above `too_few` that certifies the radius if all samples,
    `selection` ones among them, agree. Without a radius: that certifies any. None if no number does.
    """
    high = max(too_few, 1)
    while not reachable(terms, selection, high):
        high *= 2
        if high > _MOST_SAMPLES:
            return None
    low = max(too_few, high // 2)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reachable(terms, selection, middle) else (middle, high)
    return high


@lru_cache(maxsize=4096)
def reachable(terms: VoteTerms, selection: int, budget: int) -> bool:
    """Whether `budget` certification samples can certify the radius, if all samples agree."""
    count = VoteCount(terms, Tally(hits=selection), budget)
    return count.statement_if_unanimous(budget).certified


# Requests repeat the same few numbers of votes.
@lru_cache(maxsize=4096)
def _bets(ones: int, n: int, budget: int, alpha: float) -> Bets:
    # With no selection sample, all votes are expected to agree. That proves nothing.
    selection = np.concatenate([np.ones(ones), np.zeros(n - ones)]) if n else np.ones(1)
    return Bets.chosen(selection, budget, alpha)


@lru_cache(maxsize=65536)
def _lower(bets: Bets, ones: int, n: int, alpha: float) -> float:
    """The lower bound on the probability of a one, after n zeros and ones."""
    if ones == 0:
        return 0.0
    counts: Array = np.array([float(ones), float(n - ones)])
    return bets.lower(_BITS, alpha, counts)
