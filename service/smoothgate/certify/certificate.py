"""The certificate: a versioned JSON object that comes with every answer.

Each field is part of the statement (`smoothgate.certify.statement`) or says what the statement is about. All
numbers are finite. The JSON Schema is `Certificate.model_json_schema()`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from smoothgate.certify.fcsb import BoundName, Point
from smoothgate.certify.statement import AngularRadius, Outcome, Statement, angular_radius
from smoothgate.certify.stopping import StopReason

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
    """The operator's limit on the pixels of the encoder's input: a larger image is resized as the model's own
    processor does with smaller settings. The digest does not cover it. Null without a limit."""


class NoiseRecord(_Part):
    """The noise, with all that is needed to draw it again."""

    distribution: Literal["gaussian"] = "gaussian"
    """Independent normal noise of mean 0 on every channel of every pixel."""
    sigma: Annotated[float, Field(gt=0.0)]
    """Standard deviation, in the encoder's input space (pixels in [0, 1])."""
    generator: str
    """How the samples follow from the seed."""
    seed: Annotated[str, Field(pattern="^[0-9a-f]+$")]
    """Seed of this image, hexadecimal."""
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

    @classmethod
    def of(cls, point: Point) -> BoundAt:
        """From the numbers."""
        return cls(eps=point.eps, fcsb=point.value, mean=point.mean, layer_cake=point.layer_cake)


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
    angular: Distance | None = None
    """The radius by the angle: the largest angular radius at this or a higher cosine."""
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
    angular: Distance | None = None
    """The angular radius at that cosine. The target is met if `fcsb` is at least `cosine`, or if this is at
    least `eps`."""


class AngularRadiusAt(_Part):
    """How far an image may move while the angle between g(x') and t stays certified."""

    cosine: Annotated[float, Field(ge=0.0, lt=1.0)]
    """The cosine of g(x') and t is at least this for every x' within the radius."""
    radius: Distance | None
    """l2 in the encoder's input space; null if not even the image sent is certified."""

    @classmethod
    def of(cls, radius: AngularRadius) -> AngularRadiusAt:
        """From the numbers."""
        return cls(cosine=radius.cosine, radius=radius.radius)


class Certificate(_Part):
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
    stop_reason: StopReason
    """Why sampling ended: the target was met, the target was out of reach, the budget was used up, or the
    time was up.
    """
    score_estimate: Score
    """Mean of the scores (1 + <u, t>) / 2 over the certification samples. An estimate, not a bound."""
    score_lower: Score
    """Lower bound on the expected score at the image sent."""
    bounds: Annotated[tuple[BoundAt, ...], Field(min_length=1)]
    """The bounds at the distances asked for, ascending."""
    curve: tuple[BoundAt, ...]
    """The bounds from eps = 0 to the distance where the served bound reaches 0."""
    radius: Radius
    """The certified radius."""
    angular: tuple[AngularRadiusAt, ...] = ()
    """The angular radius at each cosine that has a share of alpha, ascending. With a target there is one, at
    the target's cosine."""
    served: BoundName
    """Which bound gives the radius. Without a radius: which bound is served at the smallest distance."""
    target: TargetBound | None
    """What was asked for, and the bound at that distance; null if nothing was asked for."""
    outcome: Outcome
    """`vacuous`: at the smallest distance asked for, neither the bound nor the angle certifies a cosine above
    both 0 and the chance cosine. `abstained`: one of them does, but the target was not met. `certified`:
    neither of these."""
    chance: Chance
    """The cosine of unrelated images, with which the bounds should be compared."""
    flip_point: Cosine | None
    """The cosine near which answers began to change in calibration; null if that was not measured."""
    cached: bool = False
    """Whether this result, with its noise, is that of an earlier request about the same pixels on the same
    terms."""
    assumptions: tuple[str, ...] = ASSUMPTIONS
    """What the statement assumes, and what it does not say."""

    @classmethod
    def of(
        cls,
        statement: Statement,
        *,
        stop_reason: StopReason,
        time: datetime,
        image: CertifiedImage,
        model: CertifiedModel,
        noise: NoiseRecord,
        chance: Chance,
        space: Space = "encoder_input",
        flip_point: float | None = None,
        cached: bool = False,
    ) -> Certificate:
        """The certificate of a statement; ValueError if noise or chance cosine are not those of the
        statement.
        """
        terms = statement.terms
        if noise.sigma != terms.sigma or noise.n_certify != statement.n_certify:
            raise ValueError("the noise described is not the noise that the statement is made from")
        if chance.p95 != terms.chance_cosine:
            raise ValueError("the chance cosine is not the one that the outcome was judged by")
        target = None
        if terms.target is not None and statement.target_bound is not None:
            target = TargetBound(
                cosine=terms.target.cosine,
                eps=terms.target.eps,
                fcsb=statement.target_bound,
                angular=angular_radius(statement.angular, terms.target.cosine),
            )
        return cls(
            time=time,
            image=image,
            model=model,
            noise=noise,
            space=space,
            alpha=terms.alpha,
            stop_reason=stop_reason,
            score_estimate=statement.score_estimate,
            score_lower=statement.score_lower,
            bounds=tuple(BoundAt.of(point) for point in statement.points),
            curve=tuple(BoundAt.of(point) for point in statement.curve),
            radius=Radius(
                cosine_threshold=terms.cosine_threshold,
                value=statement.radius,
                mean=statement.radius_mean,
                layer_cake=statement.radius_layer_cake,
                angular=statement.radius_angular,
                upload=_upload(statement.radius, image.resize_norm),
            ),
            angular=tuple(AngularRadiusAt.of(radius) for radius in statement.angular),
            served=statement.served,
            target=target,
            outcome=statement.outcome,
            chance=chance,
            flip_point=flip_point,
            cached=cached,
        )


def _upload(radius: float | None, resize_norm: float | None) -> float | None:
    """radius / norm, rounded down."""
    if radius is None or resize_norm is None:
        return None
    return radius / resize_norm * (1.0 - 1e-12)
