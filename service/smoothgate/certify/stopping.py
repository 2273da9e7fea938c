"""When to stop sampling: the target is certified, the target is out of reach, or the budget is used up.

The bounds are confidence sequences. The statement therefore holds at any number of samples at which sampling
stops, even if that number is chosen by looking at the scores. The rule computes the bounds at a few numbers
of samples only, because that takes time. Without a target the whole budget is used, and the bounds are then
those for a fixed number of samples.
"""

from __future__ import annotations

from typing import Literal

import numpy.typing as npt

from smoothgate.certify.scores import Array, check_scores
from smoothgate.certify.statement import Statement, Terms, evidence_for, reaches, state

#: Why sampling ended. `certified`: the target is met. `unreachable`: scores of 1 until the end of the budget
#: would not meet it. `budget`: the budget is used up. `deadline`: the time is up, which the caller decides.
StopReason = Literal["certified", "unreachable", "budget", "deadline"]

#: The rule computes the bounds after this number of samples, and then whenever it has grown by 1 / 8.
FIRST_LOOK = 32
_GROWTH = 8


class StoppingRule:
    """Takes in certification scores in the order drawn and says whether sampling should go on.

    Args:
        terms: what is asked for. Sampling may stop early when `terms.target` is decided.
        selection: scores known before the first certification sample (`statement.evidence_for`).
        budget: largest number of certification samples.

    Attributes:
        next_look: number of samples at which the bounds are computed next.

    Raises:
        ValueError: a selection score that is not a number in [0, 1], or a budget below 1.
    """

    def __init__(self, terms: Terms, selection: npt.ArrayLike, budget: int) -> None:
        self.terms = terms
        self.budget = budget
        self.next_look = budget if terms.target is None else min(FIRST_LOOK, budget)
        self._evidence = evidence_for(terms, selection, budget)
        self._reason: StopReason | None = None

    @property
    def n(self) -> int:
        """Number of certification scores so far."""
        return self._evidence.n

    @property
    def scores(self) -> Array:
        """The certification scores so far, in the order drawn (n,)."""
        return self._evidence.scores

    @property
    def reason(self) -> StopReason | None:
        """Why sampling should end, or None if it should go on."""
        return self._reason

    def update(self, scores: npt.ArrayLike) -> StopReason | None:
        """Take in further scores and return `reason`. Scores that come after a reason was given still count.

        Raises:
            ValueError: a score that is not a number in [0, 1], or more scores than the budget.
        """
        values = check_scores(scores)
        if self.n + values.size > self.budget:
            raise ValueError(f"more scores than the budget of {self.budget}")
        self._evidence.update(values)
        if self._reason is None and self.n >= self.next_look:
            self._reason = self._look()
            self.next_look = min(self.n + max(self.n // _GROWTH, 1), self.budget)
        return self._reason

    def statement(self) -> Statement:
        """The statement that holds now; ValueError before the first score."""
        return state(self.terms, self._evidence)

    def _look(self) -> StopReason | None:
        target, sigma = self.terms.target, self.terms.sigma
        if target is not None and reaches(self._evidence.established, target, sigma):
            return "certified"
        left = self.budget - self.n
        if left == 0:
            return "budget"
        if target is not None and not reaches(self._evidence.established_if_perfect(left), target, sigma):
            return "unreachable"
        return None
