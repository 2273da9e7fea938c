"""Version 1 of the certificate, frozen. It is no longer issued, and keeps verifying.

What it says that later versions do not: `flip_point`, a cosine near which answers were said to change, and a
chance cosine of features without noise. `certified` is said without a target too. `radius.upload` counts the
pixels of decoded RGB whatever the file held. docs/certificates.md says what is wrong with each.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from smoothgate.certify.certificate import Certificate
from smoothgate.certify.statement import outcome_of

PAPER: Literal["arXiv:2601.16200v1"] = "arXiv:2601.16200v1"

#: What the statement assumes and what it does not say. The reasons are in docs/certificates.md.
ASSUMPTIONS: tuple[str, ...] = (
    "The bound holds with probability at least 1 - alpha over the certification noise, which was drawn "
    "independently of the image and of the selection samples.",
    "It compares the ideal smoothed encoder g at any image x' within eps with the served direction t at the "
    "image sent; a service asked about x' would itself estimate g(x') from finitely many samples.",
    "Distances are l2 norms over the pixels of the encoder's input, in [0, 1]; the radius in upload space "
    "counts the pixels of the uploaded image, also in [0, 1].",
    "The encoder is taken as a fixed function of its input; that floating-point arithmetic in the stated "
    "dtype is only close to one is not accounted for.",
    "Gaussian noise is drawn in floating point by a pseudo-random generator from a fresh seed.",
    "It holds for every real-valued x', hence also for those on the 8-bit grid of image files.",
    "It speaks of the features that the language model received, not of the answer that the model gave.",
)

#: Where the noise is added: to the resized image, or to its tiles and its thumbnail, which show the same
#: image.
Space = Literal["encoder_input", "stacked_tiles"]

Cosine = Annotated[float, Field(ge=-1.0, le=1.0)]
Probability = Annotated[float, Field(gt=0.0, lt=1.0)]
Score = Annotated[float, Field(ge=0.0, le=1.0)]
Distance = Annotated[float, Field(ge=0.0)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class CertifiedImage(_Part):
    """The picture that the certificate is about."""

    sha256: Digest
    """SHA-256 of the uploaded file's bytes, hexadecimal."""
    animated: bool = False
    """Whether the file is an animation. The certificate is about its first frame."""
    width: Size
    """Width of the uploaded image, in pixels."""
    height: Size
    """Height of the uploaded image, in pixels."""
    canvas_width: Size
    """Width of the encoder's input, in pixels."""
    canvas_height: Size
    """Height of the encoder's input, in pixels."""
    resize_norm: Annotated[float, Field(gt=0.0)] | None
    """Operator norm (l2) of the map from the uploaded image to the encoder's input, or an upper bound on it
    where the space is `stacked_tiles`; null if unknown."""


class CertifiedModel(_Part):
    """The encoder that was smoothed."""

    name: str
    """Name under which the model is served."""
    digest: Digest
    """SHA-256 over everything that determines the features: weights, preprocessing, calibration, PSM."""
    psm_digest: Digest | None
    """SHA-256 of the purifier and smoothness mapper; null without them."""
    dtype: str
    """Floating-point type of the encoder's arithmetic."""
    max_canvas_pixels: Size | None = None
    """The operator's limit on the pixels of the encoder's input; null without a limit."""


class NoiseRecord(_Part):
    """The noise, with all that is needed to draw it again."""

    distribution: Literal["gaussian"] = "gaussian"
    """Independent normal noise of mean 0 on every channel of every pixel."""
    sigma: Annotated[float, Field(gt=0.0, le=1e6)]
    """Standard deviation, in the encoder's input space (pixels in [0, 1])."""
    generator: str
    """How the samples follow from the seed."""
    seed: Annotated[str, Field(pattern="^[0-9a-f]{1,32}$")]
    """Seed of this image, at most 128 bits, hexadecimal."""
    n_select: Size
    """Samples that chose the served direction t, the transforms and the stakes of the bounds."""
    n_certify: Size
    """Fresh samples, drawn after the selection samples. The bounds are computed from them."""
    budget: Size
    """The largest number of fresh samples that could have been drawn. The stakes of the bounds were chosen
    for it.
    """
    degraded_from: Size | None = None
    """The budget that this request would have had without load on the service; null if load did not reduce
    it."""

    @model_validator(mode="after")
    def _within_budget(self) -> Self:
        if self.n_certify > self.budget:
            raise ValueError("noise.n_certify is above noise.budget")
        if self.degraded_from is not None and self.degraded_from <= self.budget:
            raise ValueError("noise.degraded_from is not above noise.budget")
        return self


class Chance(_Part):
    """The cosine of centred features of unrelated images, from calibration."""

    mean: Cosine
    """Mean over pairs."""
    p95: Cosine
    """95th percentile over pairs. A bound that is not above it says nothing."""


class BoundAt(_Part):
    """The Feature Cosine Similarity Bound at one distance."""

    eps: Distance
    """l2 distance in the encoder's input space."""
    fcsb: Cosine
    """The served bound: <g(x'), t> is at least this number for every x' within eps."""
    mean: Cosine
    """The paper's bound, from the mean score alone."""
    layer_cake: Cosine
    """The bound from the distribution of the scores."""


class Radius(_Part):
    """How far an image may move while the cosine stays certified."""

    cosine_threshold: Cosine
    """The cosine that is certified within the radius."""
    value: Distance | None
    """The served radius, l2 in the encoder's input space; null if not even eps = 0 is certified."""
    mean: Distance | None
    """The radius by the paper's bound."""
    layer_cake: Distance | None
    """The radius by the layer-cake bound."""
    upload: Distance | None
    """The served radius in the uploaded image's own pixels: value / resize_norm."""


class TargetBound(_Part):
    """What the request or the policy asked to be certified."""

    cosine: Cosine
    """The cosine that was asked for."""
    eps: Distance
    """The l2 distance, in the encoder's input space, within which it was asked for."""
    fcsb: Cosine
    """The served bound at that distance."""


class CertificateV1(_Part):
    """A lower bound on the cosine between the features that produced an answer and the features of any image
    near the one sent. It is true with probability at least 1 - alpha.
    """

    version: Literal[1] = 1
    """Version of this schema."""
    paper: Literal["arXiv:2601.16200v1"] = PAPER
    """The paper whose definitions are used."""
    time: datetime
    """When the certificate was made."""
    image: CertifiedImage
    """The picture."""
    model: CertifiedModel
    """The encoder."""
    noise: NoiseRecord
    """The noise."""
    norm: Literal["l2"] = "l2"
    """Norm of all distances."""
    space: Space = "encoder_input"
    """Where noise is added and distances are measured, in pixels in [0, 1] that are resized but not
    normalised. `encoder_input`: the resized image. `stacked_tiles`: its tiles and its thumbnail, which show
    the same image twice. Each gets noise of its own.
    """
    alpha: Probability
    """Probability, over the noise, that a bound in this certificate is wrong. It is this image's share of the
    request's error probability."""
    stop_reason: Literal["certified", "unreachable", "budget", "deadline"]
    """Why sampling ended: the target was met, the target was out of reach, the budget was used up, or the
    time was up.
    """
    score_estimate: Score
    """Mean of the scores (1 + <u, t>) / 2 over the certification samples. An estimate, not a bound."""
    score_lower: Score
    """Lower bound on the expected score at the image sent."""
    bounds: Annotated[tuple[BoundAt, ...], Field(min_length=1, max_length=1024)]
    """The bounds at the distances asked for, ascending."""
    curve: Annotated[tuple[BoundAt, ...], Field(min_length=1, max_length=25)]
    """The bounds from eps = 0 to the distance where the served bound reaches 0."""
    radius: Radius
    """The certified radius."""
    served: Literal["mean", "layer_cake"]
    """Which bound gives the radius. Without a radius: which bound is served at the smallest distance."""
    target: TargetBound | None
    """What was asked for, and the bound at that distance; null if nothing was asked for."""
    outcome: Literal["certified", "abstained", "vacuous"]
    """`vacuous`: at the smallest distance asked for, the bound is not above both 0 and the chance cosine.
    `abstained`: it is above both, but the target was not met. `certified`: neither of these."""
    chance: Chance
    """The cosine of unrelated images, with which the bounds should be compared."""
    flip_point: Cosine | None
    """The cosine near which answers began to change in calibration; null if that was not measured."""
    cached: bool = False
    """Whether this result, with its noise, is that of an earlier request about the same pixels on the same
    terms."""
    assumptions: tuple[str, ...] = ASSUMPTIONS
    """What the statement assumes, and what it does not say."""

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        eps = [bound.eps for bound in self.bounds]
        if eps[0] <= 0.0 or eps != sorted(set(eps)):
            raise ValueError("the eps of bounds are not positive and ascending")
        return self


#: A certificate of any version that is known here.
AnyCertificate = Certificate | CertificateV1


def as_version_1(
    certificate: Certificate, chance_mean: float, chance_p95: float, flip_point: float | None
) -> CertificateV1:
    """What version 1 says of the same statement.

    Args:
        certificate: of the present version.
        chance_mean, chance_p95: cosine of the features of unrelated images without noise.
        flip_point: of the calibration.
    """
    facts = certificate.model_dump(include=set(CertificateV1.model_fields) - {"version", "assumptions"})
    for name, part in (
        ("image", CertifiedImage),
        ("model", CertifiedModel),
        ("noise", NoiseRecord),
        ("radius", Radius),
    ):
        facts[name] = {field: facts[name][field] for field in part.model_fields}
    facts["radius"]["upload"] = upload_radius_v1(certificate.radius.value, certificate.image.resize_norm)
    target = certificate.target
    if target is not None:
        facts["target"] = {field: facts["target"][field] for field in TargetBound.model_fields}
    is_met = None if target is None else target.fcsb >= target.cosine
    facts |= {
        "chance": Chance(mean=chance_mean, p95=chance_p95),
        "flip_point": flip_point,
        "outcome": outcome_v1(certificate.bounds[0].fcsb, chance_p95, is_met),
    }
    return CertificateV1.model_validate(facts)


def upload_radius_v1(radius: float | None, resize_norm: float | None) -> float | None:
    """A radius at the encoder's input as one of the decoded RGB image, rounded down."""
    return None if radius is None or resize_norm is None else radius / resize_norm * (1.0 - 1e-12)


def outcome_v1(bound: float, chance_p95: float, is_met: bool | None) -> str:
    """As `statement.outcome_of`, in the words of version 1: without a target it says `certified`."""
    outcome, _ = outcome_of(bound, chance_p95, is_met)
    return "certified" if outcome == "bounded" else outcome
