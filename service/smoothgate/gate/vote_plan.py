"""The sampling parameters of a vote, and the refusal of budgets that cannot succeed."""

from __future__ import annotations

from dataclasses import dataclass

from smoothgate.certify.votes import VoteTerms, reachable, smallest_budget
from smoothgate.errors import Unacceptable


@dataclass(frozen=True, slots=True)
class VotePlan:
    """How a vote is held.

    Attributes:
        terms: of the statement.
        n_select: samples that choose the answer, at least 1.
        budget: most samples that are counted after them, at least 1.
        enforce: whether a request is refused if the radius is missed.
    """

    terms: VoteTerms
    n_select: int
    budget: int
    enforce: bool = False

    @property
    def samples(self) -> int:
        """Most noisy copies."""
        return self.n_select + self.budget

    def require_reachable(self) -> None:
        """Refuse a budget that cannot certify the radius, even if all samples agree.

        Raises:
            Unacceptable: code `budget_too_small`. The message names the smallest number that could.
        """
        if reachable(self.terms, self.n_select, self.budget):
            return
        smallest = smallest_budget(self.terms, self.n_select, self.budget)
        wanted = "any radius" if self.terms.radius is None else f"a radius of {self.terms.radius:.4g}"
        hint = "no number could" if smallest is None else f"the smallest number that could is {smallest}"
        raise Unacceptable(
            f"{self.budget} samples cannot certify {wanted} with sigma = {self.terms.sigma:.4g} and alpha = "
            f"{self.terms.alpha:.4g}, even if all agree; {hint}.",
            param="smoothing.n_certify",
            code="budget_too_small",
        )
