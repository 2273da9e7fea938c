"""The sampling parameters of one request, and the refusal of budgets that cannot succeed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from smoothgate.certify.alpha import per_image
from smoothgate.certify.statement import BudgetTooSmall, Target, Terms, require_reachable
from smoothgate.errors import Unacceptable


@dataclass(frozen=True, slots=True)
class Plan:
    """Sampling parameters of a request, complete and within the operator's limits.

    Attributes:
        sigma: standard deviation of the noise, in the encoder's input space.
        n_select: samples per image that choose t.
        n_certify: largest number of fresh samples per image that are scored.
        alpha: probability of a wrong certificate, shared by the images of the request.
        eps: l2 radii at which the bound is reported, ascending.
        cosine_threshold: cosine for which the certified radius is reported.
        target: sampling stops when it is decided; None: the whole budget is used.
        enforce: whether a request is refused if an image misses the target.
        cosines: at which angular radii are reported, ascending; none: the inner product alone is bounded.
        degraded_from: `n_certify` without load, if load has reduced it; else None.
    """

    sigma: float
    n_select: int
    n_certify: int
    alpha: float
    eps: tuple[float, ...]
    cosine_threshold: float
    target: Target | None = None
    enforce: bool = False
    degraded_from: int | None = None
    cosines: tuple[float, ...] = ()

    @property
    def samples(self) -> int:
        """Largest number of noisy forwards per image."""
        return self.n_select + self.n_certify

    def terms(self, images: int, chance_cosine: float | None) -> Terms:
        """The terms of the certificate of one of `images` images. It also reports at the target's eps."""
        eps = self.eps if self.target is None else (*self.eps, self.target.eps)
        return Terms(
            sigma=self.sigma,
            alpha=per_image(self.alpha, images),
            eps=tuple(sorted(set(eps))),
            cosine_threshold=self.cosine_threshold,
            chance_cosine=chance_cosine,
            target=self.target,
            cosines=self.cosines,
        )

    def require_reachable(self, images: int, chance_cosine: float | None) -> None:
        """Refuse a target that unrelated images meet, and a budget that cannot certify anything, even with
        perfect scores.

        Raises:
            Unacceptable: code `target_below_chance`: the message names the cosine of unrelated images. Code
                `budget_too_small`: the message names the smallest number that could.
        """
        if self.target is not None and chance_cosine is not None:
            floor = max(chance_cosine, 0.0)
            if self.target.cosine <= floor:
                raise Unacceptable(
                    f"A cosine of {self.target.cosine:.4g} says nothing at sigma = {self.sigma:.4g}: "
                    f"unrelated images reach {floor:.4g}. A target must be above that.",
                    param="smoothing.target.cosine",
                    code="target_below_chance",
                )
        refusal = _refusal(self.terms(images, chance_cosine), self.n_certify)
        if refusal is not None:
            raise Unacceptable(refusal, param="smoothing.n_certify", code="budget_too_small")


# Most requests ask for the same, and the search takes milliseconds.
@lru_cache(maxsize=1024)
def _refusal(terms: Terms, n_certify: int) -> str | None:
    """Why a budget is too small, or None if it is not."""
    try:
        require_reachable(terms, n_certify)
    except BudgetTooSmall as error:
        return str(error)
    return None
