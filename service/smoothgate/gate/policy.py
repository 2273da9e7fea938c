"""What a request may ask of the smoothing, and the plan that it gets within the operator's limits."""

from __future__ import annotations

from dataclasses import dataclass

from smoothgate.certify.statement import Target
from smoothgate.errors import Unacceptable
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

    def plan(self, options: SmoothingOptions) -> Plan:
        """The sampling parameters of a request.

        Raises:
            Unacceptable: an option is outside the limits.
        """
        sigma = self.sigma if options.sigma is None else options.sigma
        if not self.sigma_min <= sigma <= self.sigma_max:
            raise Unacceptable(
                f"smoothing.sigma is {sigma:g}; this service takes {self.sigma_min:g} to {self.sigma_max:g}.",
                param="smoothing.sigma",
                code="out_of_range",
            )
        n_select = options.n_select or self.n_select
        n_certify = options.n_certify or self.n_certify
        if n_select + n_certify > self.max_samples:
            raise Unacceptable(
                f"smoothing.n_select + smoothing.n_certify is {n_select + n_certify}; "
                f"this service draws at most {self.max_samples} samples for an image.",
                param="smoothing.n_select" if options.n_certify is None else "smoothing.n_certify",
                code="out_of_range",
            )
        alpha = self.alpha if options.alpha is None else options.alpha
        if not _LEAST_ALPHA <= alpha <= self.alpha:
            raise Unacceptable(
                f"smoothing.alpha is {alpha:g}; this service takes {_LEAST_ALPHA:g} to {self.alpha:g}.",
                param="smoothing.alpha",
                code="out_of_range",
            )
        eps = self.eps if options.eps is None else tuple(sorted(set(options.eps)))
        _require_radii("smoothing.eps", eps[0], eps[-1])
        cosine = self.cosine_threshold if options.cosine_threshold is None else options.cosine_threshold
        target = self._target(options, cosine)
        return Plan(
            sigma,
            n_select,
            n_certify,
            alpha,
            eps,
            cosine,
            target,
            self._enforces(options, target),
            cosines=self.cosines if options.cosines is None else tuple(sorted(set(options.cosines))),
        )

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

    def _enforces(self, options: SmoothingOptions, target: Target | None) -> bool:
        if options.policy == "report" and self.enforce:
            raise Unacceptable(
                "This service enforces its policy.", param="smoothing.policy", code="laxer_than_policy"
            )
        enforce = self.enforce or options.policy == "enforce"
        if enforce and target is None:
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
