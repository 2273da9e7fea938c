"""What comes in and goes out over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from smoothgate.certify.certificate import Certificate
from smoothgate.certify.statement import Target
from smoothgate.errors import Unacceptable
from smoothgate.sampling.sampling_plan import Plan

if TYPE_CHECKING:
    from smoothgate.settings import Settings

Finite = Annotated[float, Field(allow_inf_nan=False)]

# Far outside of any use: beyond these, floating-point numbers give out in the bounds.
_RADII = (1e-6, 1e6)
_LEAST_ALPHA = 1e-100


class TargetOptions(BaseModel):
    """What is to be certified: sampling ends as soon as it is, or once the budget cannot reach it."""

    model_config = ConfigDict(extra="forbid")

    cosine: Finite | None = Field(
        None, ge=0, lt=1, description="The bound is to be at least this; left out: `cosine_threshold`,"
    )
    eps: Finite = Field(gt=0, description="at this l2 distance in the encoder's input space.")


class SmoothingOptions(BaseModel):
    """The `smoothing` field of a request; what it leaves out is as the operator set it."""

    model_config = ConfigDict(extra="forbid")

    mode: Literal["certified", "off"] = Field(
        "certified", description="`off`: raw features and no certificate, only where the operator allows it."
    )
    sigma: Finite | None = Field(
        None, gt=0, description="Standard deviation of the noise, in pixels of [0, 1] at the encoder's input."
    )
    n_select: int | None = Field(None, ge=1, description="Noise samples that choose the served feature.")
    n_certify: int | None = Field(None, ge=1, description="Fresh noise samples behind the bounds.")
    alpha: Finite | None = Field(
        None,
        gt=0,
        lt=1,
        description="Probability of a wrong certificate in this request; not above the operator's.",
    )
    eps: list[Finite] | None = Field(
        None, min_length=1, max_length=32, description="l2 radii at which the bound is reported."
    )
    cosine_threshold: Finite | None = Field(
        None, ge=0, lt=1, description="Cosine for which the certified radius is reported."
    )
    target: TargetOptions | None = Field(
        None, description="Stop sampling early for this; left out: as the operator's policy says."
    )
    policy: Literal["report", "enforce"] | None = Field(
        None, description="`enforce`: refuse (422) instead of answering where the target is not certified."
    )

    def plan(self, settings: Settings) -> Plan:
        """Complete the options from the settings.

        Raises:
            Unacceptable: a value is outside the operator's limits.
        """
        sigma = settings.sigma if self.sigma is None else self.sigma
        if not settings.sigma_min <= sigma <= settings.sigma_max:
            raise Unacceptable(
                f"smoothing.sigma is {sigma:g}; "
                f"this service takes {settings.sigma_min:g} to {settings.sigma_max:g}.",
                param="smoothing.sigma",
                code="out_of_range",
            )
        n_select = self.n_select or settings.n_select
        n_certify = self.n_certify or settings.n_certify
        if n_select + n_certify > settings.max_samples:
            raise Unacceptable(
                f"smoothing.n_select + smoothing.n_certify is {n_select + n_certify}; "
                f"this service draws at most {settings.max_samples} samples for an image.",
                param="smoothing.n_select" if self.n_certify is None else "smoothing.n_certify",
                code="out_of_range",
            )
        alpha = settings.alpha if self.alpha is None else self.alpha
        if not _LEAST_ALPHA <= alpha <= settings.alpha:
            raise Unacceptable(
                f"smoothing.alpha is {alpha:g}; this service takes {_LEAST_ALPHA:g} to {settings.alpha:g}.",
                param="smoothing.alpha",
                code="out_of_range",
            )
        eps = settings.eps if self.eps is None else tuple(sorted(set(self.eps)))
        _require_radii("smoothing.eps", eps[0], eps[-1])
        cosine = settings.cosine_threshold if self.cosine_threshold is None else self.cosine_threshold
        target = self._target(settings, cosine)
        return Plan(sigma, n_select, n_certify, alpha, eps, cosine, target, self._enforce(settings, target))

    def _target(self, settings: Settings, cosine_threshold: float) -> Target | None:
        """The client's target or the policy's; Unacceptable where the client's is not at least as strict."""
        policy = None
        if settings.policy_cosine is not None and settings.policy_eps is not None:
            policy = Target(settings.policy_cosine, settings.policy_eps)
        if self.target is None:
            return policy
        _require_radii("smoothing.target.eps", self.target.eps)
        cosine = cosine_threshold if self.target.cosine is None else self.target.cosine
        if policy and (cosine < policy.cosine or self.target.eps < policy.eps):
            raise Unacceptable(
                f"This service's policy is a cosine of {policy.cosine:g} at {policy.eps:g}: "
                "smoothing.target may ask for more, not for less.",
                param="smoothing.target",
                code="laxer_than_policy",
            )
        return Target(cosine, self.target.eps)

    def _enforce(self, settings: Settings, target: Target | None) -> bool:
        if self.policy == "report" and settings.policy == "enforce":
            raise Unacceptable(
                "This service enforces its policy.", param="smoothing.policy", code="laxer_than_policy"
            )
        enforce = "enforce" in (self.policy, settings.policy)
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


Message = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class ChatRequest(BaseModel):
    """A question about pictures."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"message": "Hello", "max_tokens": 40}},
    )

    message: Message = Field(description="The question.")
    images: list[str] = Field(
        default_factory=list, description="Pictures as data URIs, `data:image/png;base64,...`."
    )
    smoothing: SmoothingOptions | None = Field(
        None, description="How to smooth; left out: as the operator set it."
    )
    max_tokens: int | None = Field(None, ge=1, description="Longest answer, in tokens.")
    temperature: Finite | None = Field(None, ge=0, le=2, description="0 for the most likely answer.")
    stream: bool = Field(False, description="Answer as server-sent events.")
    history: list[dict[str, Any]] = Field(
        default_factory=list,
        description="Earlier messages of this chat, in OpenAI's form, pictures included.",
    )


class IssuedCertificate(Certificate):
    """A certificate as it is handed out."""

    jws: str
    """The same, signed: a JWS in compact serialisation, for `/.well-known/jwks.json`."""


class Timings(BaseModel):
    """Where the time of a request went, in seconds."""

    decode: float = Field(description="Decoding and resizing the pictures.")
    select: float = Field(description="Until the served features were known.")
    certify: float = Field(
        description="Until the certificates were known, counted from the same start as select."
    )
    engine: float = Field(description="vLLM's part.")
    total: float = Field(description="The whole request.")


class ChatAnswer(BaseModel):
    """An answer and what is certified about the features it was made from."""

    id: str
    model: str
    answer: str
    certificates: list[IssuedCertificate] = Field(description="One per picture, in the order they were sent.")
    usage: dict[str, Any]
    timings: Timings


class CertifyRequest(BaseModel):
    """Pictures to certify without asking anything."""

    model_config = ConfigDict(extra="forbid")

    images: list[str] = Field(default_factory=list, description="Pictures as data URIs.")
    smoothing: SmoothingOptions | None = None


class CertifyAnswer(BaseModel):
    """One certificate per picture."""

    model: str
    certificates: list[IssuedCertificate]


class ErrorBody(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorAnswer(BaseModel):
    """The shape of every failure."""

    error: ErrorBody


class RefusalAnswer(ErrorAnswer):
    """The same for what is well-formed."""

    certificates: list[IssuedCertificate] | None = Field(
        None, description="What was certified, where a policy is not met; otherwise not there."
    )
