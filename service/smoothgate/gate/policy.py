"""What a request may ask of the smoothing, and the plan that it gets within the operator's limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from smoothgate.certify.statement import Target
from smoothgate.certify.votes import VoteTerms
from smoothgate.errors import Unacceptable
from smoothgate.gate.vote_plan import VotePlan
from smoothgate.sampling.sampling_plan import Plan
from smoothgate.schemas import SmoothingOptions

# Far outside of any use: beyond these, floating-point numbers give out in the bounds.
_RADII = (1e-6, 1e6)
_LEAST_ALPHA = 1e-100


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorPolicy:
    """What holds where a request names nothing, and the limits of what it may name.

    Attributes:
        sigma, sigma_min, sigma_max: standard deviation of the noise, in the encoder's input space.
        n_select, n_certify: samples per image.
        max_samples: largest `n_select + n_certify` per image.
        alpha: probability of a wrong certificate per request; requests may ask for less.
        eps: l2 radii at which bounds are reported, ascending.
        cosines: at which angular radii are reported, ascending.
        cosine_threshold: cosine for which the radius is reported.
        target: what certificates should reach, or None; requests may ask for more.
        enforce: whether an image that misses the target is refused.
        allow_off: whether requests may switch smoothing off.
        certify: what is certified, the features or the answer.
        radius: in which answers should hold, or None; requests may ask for more.
        n_select_answer: samples that choose an answer.
    """

    sigma: float
    sigma_min: float
    sigma_max: float
    n_select: int
    n_certify: int
    max_samples: int
    alpha: float
    eps: tuple[float, ...]
    cosines: tuple[float, ...]
    cosine_threshold: float
    target: Target | None
    enforce: bool
    allow_off: bool
    certify: Literal["features", "answer"]
    radius: float | None
    n_select_answer: int

    def certifies_answer(self, options: SmoothingOptions) -> bool:
        """Whether a request has its answer certified, instead of the features.

        Raises:
            Unacceptable: an option that belongs to the other way, or another way than the one enforced.
        """
        certify = options.certify or self.certify
        if self.enforce and certify != self.certify:
            raise Unacceptable(
                "This service enforces its policy.", param="smoothing.certify", code="laxer_than_policy"
            )
        if certify == "features":
            if options.answer is not None:
                raise Unacceptable(
                    'smoothing.answer belongs to smoothing.certify = "answer".', param="smoothing.answer"
                )
            return False
        for name in ("eps", "cosine_threshold", "cosines"):
            if getattr(options, name) is not None:
                raise Unacceptable(
                    f"smoothing.{name} is about features; of an answer, smoothing.target.eps is the radius.",
                    param=f"smoothing.{name}",
                )
        return True

    def plan(self, options: SmoothingOptions) -> Plan:
        """The sampling parameters of a request.

        Raises:
            Unacceptable: an option is outside the limits.
        """
        sigma, alpha = self._sigma(options), self._alpha(options)
        n_select = options.n_select or self.n_select
        n_certify = options.n_certify or self.n_certify
        self._require_few(n_select, n_certify, options)
        eps = self.eps if options.eps is None else tuple(sorted(set(options.eps)))
        _require_radii("smoothing.eps", eps[0], eps[-1])
        cosine = self.cosine_threshold if options.cosine_threshold is None else options.cosine_threshold
        target = self._target(options, cosine)
        enforce = self._enforces(options, "features", target is not None)
        return Plan(
            sigma,
            n_select,
            n_certify,
            alpha,
            eps,
            cosine,
            target,
            enforce,
            cosines=self.cosines if options.cosines is None else tuple(sorted(set(options.cosines))),
        )

    def vote_plan(self, options: SmoothingOptions) -> VotePlan:
        """The sampling parameters of a request that has its answer certified.

        Raises:
            Unacceptable: an option is outside the limits.
        """
        n_select = options.n_select or self.n_select_answer
        n_certify = options.n_certify or self.n_certify
        self._require_few(n_select, n_certify, options)
        radius = self._radius(options)
        terms = VoteTerms(self._sigma(options), self._alpha(options), radius)
        return VotePlan(terms, n_select, n_certify, self._enforces(options, "answer", radius is not None))

    def _sigma(self, options: SmoothingOptions) -> float:
        sigma = self.sigma if options.sigma is None else options.sigma
        if not self.sigma_min <= sigma <= self.sigma_max:
            raise Unacceptable(
                f"smoothing.sigma is {sigma:g}; this service takes {self.sigma_min:g} to {self.sigma_max:g}.",
                param="smoothing.sigma",
                code="out_of_range",
            )
        return sigma

    def _require_few(self, n_select: int, n_certify: int, options: SmoothingOptions) -> None:
        if n_select + n_certify > self.max_samples:
            raise Unacceptable(
                f"smoothing.n_select + smoothing.n_certify is {n_select + n_certify}; "
                f"this service draws at most {self.max_samples} samples for an image.",
                param="smoothing.n_select" if options.n_certify is None else "smoothing.n_certify",
                code="out_of_range",
            )

    def _alpha(self, options: SmoothingOptions) -> float:
        alpha = self.alpha if options.alpha is None else options.alpha
        if not _LEAST_ALPHA <= alpha <= self.alpha:
            raise Unacceptable(
                f"smoothing.alpha is {alpha:g}; this service takes {_LEAST_ALPHA:g} to {self.alpha:g}.",
                param="smoothing.alpha",
                code="out_of_range",
            )
        return alpha

    def _radius(self, options: SmoothingOptions) -> float | None:
        if options.target is None:
            return self.radius
        if options.target.cosine is not None:
            raise Unacceptable(
                "smoothing.target.cosine is about features; an answer has a radius alone.",
                param="smoothing.target.cosine",
            )
        _require_radii("smoothing.target.eps", options.target.eps)
        if self.radius is not None and options.target.eps < self.radius:
            raise Unacceptable(
                f"This service's policy is a radius of {self.radius:g}: smoothing.target.eps may ask for "
                "more, not for less.",
                param="smoothing.target.eps",
                code="laxer_than_policy",
            )
        return options.target.eps

    def require_off_allowed(self) -> None:
        """Refuse a request that switches smoothing off.

        Raises:
            Unacceptable: code `not_allowed`, where the operator does not allow it or enforces a policy.
        """
        if not self.allow_off or self.enforce:
            raise Unacceptable(
                "This service does not allow smoothing to be switched off.",
                param="smoothing.mode",
                code="not_allowed",
            )

    def _target(self, options: SmoothingOptions, cosine_threshold: float) -> Target | None:
        if options.target is None:
            return self.target
        _require_radii("smoothing.target.eps", options.target.eps)
        cosine = cosine_threshold if options.target.cosine is None else options.target.cosine
        if self.target and (cosine < self.target.cosine or options.target.eps < self.target.eps):
            raise Unacceptable(
                f"This service's policy is a cosine of {self.target.cosine:g} at {self.target.eps:g}: "
                "smoothing.target may ask for more, not for less.",
                param="smoothing.target",
                code="laxer_than_policy",
            )
        return Target(cosine, options.target.eps)

    def _enforces(self, options: SmoothingOptions, certify: str, has_target: bool) -> bool:
        enforced = self.enforce and certify == self.certify
        if options.policy == "report" and enforced:
            raise Unacceptable(
                "This service enforces its policy.", param="smoothing.policy", code="laxer_than_policy"
            )
        enforce = enforced or options.policy == "enforce"
        if enforce and not has_target:
            raise Unacceptable(
                "There is no target to enforce: name one in smoothing.target.", param="smoothing.policy"
            )
        return enforce


def _require_radii(param: str, *radii: float) -> None:
    least, most = _RADII
    for radius in radii:
        if not least <= radius <= most:
            raise Unacceptable(
                f"{param} is {radius:g}; this service takes {least:g} to {most:g}.",
                param=param,
                code="out_of_range",
            )
