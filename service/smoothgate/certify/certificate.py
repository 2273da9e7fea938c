"""The certificate: a versioned JSON object that comes with every answer.

This is version 2. Each field is part of the statement (`smoothgate.certify.statement`) or says what the
statement is about. All numbers are finite. The JSON Schema is `Certificate.model_json_schema()`. Version 1 is
`smoothgate.certify.certificate_v1`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from smoothgate.certify.fcsb import BoundName, Point
from smoothgate.certify.statement import (
    CURVE_POINTS,
    AngularRadius,
    Outcome,
    Statement,
    VacuousBecause,
    angular_radius,
)
from smoothgate.certify.stopping import StopReason

PAPER: Literal["arXiv:2601.16200v1"] = "arXiv:2601.16200v1"

#: What the statement assumes and what it does not say. The reasons are in docs/certificates.md.
ASSUMPTIONS: tuple[str, ...] = (
    "The bound holds with probability at least 1 - alpha over the certification noise, which was drawn "
    "independently of the image and of the selection samples.",
    "It compares the ideal smoothed encoder g at any image x' within eps with the served direction t at the "
    "image sent; a service asked about x' would itself estimate g(x') from finitely many samples.",
    "Distances are l2 norms over the pixels of the encoder's input, in [0, 1]; the radius in upload space "
    "counts the decoded 8-bit samples of the uploaded image, divided by 255, not what the file stores.",
    "The encoder is taken as a fixed function of its input; that floating-point arithmetic in the stated "
    "dtype is only close to one is not accounted for.",
    "Gaussian noise is drawn in floating point by a pseudo-random generator from the recorded seed.",
    "It holds for every real-valued x', hence also for those on the 8-bit grid of image files.",
    "It speaks of the features that the language model received; the answer is named, not certified.",
)

#: Where the noise is added: to the resized image, or to its tiles and its thumbnail, which show the same
#: image.
Space = Literal["encoder_input", "stacked_tiles"]

#: What the pixels of the uploaded file become canvas pixels from by a linear map.
UploadSpace = Literal["decoded RGB", "decoded grey"]

Cosine = Annotated[float, Field(ge=-1.0, le=1.0)]
Probability = Annotated[float, Field(gt=0.0, lt=1.0)]
Score = Annotated[float, Field(ge=0.0, le=1.0)]
Distance = Annotated[float, Field(ge=0.0)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=1)]


class _Part(BaseModel):
    """A part of a signed object: unknown fields are an error, and all numbers are finite."""

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
    """Operator norm (l2) of the map from the decoded RGB image to the encoder's input, or an upper bound on
    it where the space is `stacked_tiles`; null if unknown."""
    upload_space: UploadSpace | None
    """Whose values the radius in upload space counts: the three of each pixel, or the one of a grey pixel, in
    [0, 1]. null: a small change of this file's values may be a large one of the decoded RGB image."""
    upload_reason: str | None
    """Why `upload_space` is null; null where it is not."""


class CertifiedModel(_Part):
    """The encoder that was smoothed, and the language model behind it."""

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
    language_model_digest: Digest | None
    """SHA-256 over the files of the checkpoint that holds the language model, as the service has them; null
    where no language model was to be asked. A vLLM elsewhere is not checked against it."""


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
    streams: Literal[2] = 2
    """Streams of the seed: selection sample i is sample i of the generator, certification sample j is sample
    2^32 + j. Version 1 has one stream: certification samples follow the selection samples.
    """
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


class Commitment(_Part):
    """Where the log of commitments shows that request and seed were fixed before any noise was drawn."""

    log: str
    """Identifier of the log."""
    number: Annotated[int, Field(ge=0)]
    """Number of the entry, from 0."""
    nonce: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    """Random number that the entry was made with, hexadecimal. It keeps others from guessing the content."""
    secret_digest: Digest
    """Commits to the secret that the seed follows from. The entry shows it."""


class Chance(_Part):
    """The cosine of the served features of unrelated images:  calibration at this sigma with this PSM."""

    mean: Cosine
    """Mean over pairs."""
    p95: Cosine
    """Upper confidence limit (95 %) of the 95th percentile over pairs. A bound that is not above it says
    nothing."""
    pairs: Size
    """Number of independent pairs of images that were measured."""


class Question(_Part):
    """What the language model was asked."""

    messages_sha256: Digest
    """SHA-256 of the messages as canonical JSON, with `{"type": "image", "sha256": ...}` in the place of each
    image."""
    decoding_sha256: Digest
    """SHA-256 of the parameters that the language model was sent, as canonical JSON."""


class AnswerRecord(_Part):
    """What the language model answered."""

    sha256: Digest
    """SHA-256 of the texts of all choices, as a JSON array in canonical form. Tool calls are not covered."""
    certified: Literal[False] = False
    """The certificate bounds features. Nothing is certified about the answer."""


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
    """The served radius in `image.upload_space`: value / resize_norm for decoded RGB, and that divided by the
    root of 3 for decoded grey. null where there is no radius, or no factor between the spaces."""


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
    upload: Distance | None = None
    """The same in `image.upload_space`, as `radius.upload` is; null where there is no radius, or no factor
    between the spaces. Earlier releases do not state it."""

    @classmethod
    def of(cls, radius: AngularRadius, image: CertifiedImage) -> AngularRadiusAt:
        """From the numbers."""
        return cls(cosine=radius.cosine, radius=radius.radius, upload=upload_radius(radius.radius, image))


class Certificate(_Part):
    """A lower bound on the cosine between the features that produced an answer and the features of any image
    near the one sent. It is true with probability at least 1 - alpha.
    """

    version: Literal[2] = 2
    """Version of this schema."""
    paper: Literal["arXiv:2601.16200v1"] = PAPER
    """The paper whose definitions are used."""
    time: datetime
    """When the certificate was made."""
    request_id: str | None = None
    """The request that was answered, as in its header `X-Request-ID`; null outside of a request."""
    question: Question | None = None
    """What the language model was asked; null where it was not to be asked."""
    answer: AnswerRecord | None = None
    """What it answered; null where it was not asked."""
    served_tokens_sha256: Digest
    """SHA-256 of the visual tokens that were served for this image: float32, little-endian, by token."""
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
    bounds: Annotated[tuple[BoundAt, ...], Field(min_length=1, max_length=1024)]
    """The bounds at the distances asked for, ascending."""
    curve: Annotated[tuple[BoundAt, ...], Field(min_length=1, max_length=CURVE_POINTS)]
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
    """`vacuous`: what is certified is not known to say anything (`vacuous_because`). `abstained`: it does,
    but the target was not met. `certified`: the target was met, by the bound or by the angle. `bounded`:
    there was no target."""
    vacuous_because: VacuousBecause | None
    """`not calibrated`: the cosine of unrelated images is not known at this sigma. `not above chance`: at the
    smallest distance asked for, neither the bound nor the angle certifies a cosine above both 0 and the
    chance cosine. null: not vacuous."""
    chance: Chance | None
    """The cosine of unrelated images, with which the bounds should be compared; null: this sigma is not
    calibrated."""
    cached: bool = False
    """Whether this result, with its noise, is that of an earlier request about the same pixels on the same
    terms."""
    commitment: Commitment | None = None
    """The commitment to request and seed; null where the service keeps no log."""
    assumptions: tuple[str, ...] = ASSUMPTIONS
    """What the statement assumes, and what it does not say."""

    @property
    def radius_by_angle(self) -> float | None:
        """The radius at the cosine threshold that `angular` gives: the largest at this or a higher cosine."""
        radii = tuple(AngularRadius(one.cosine, one.radius) for one in self.angular)
        return angular_radius(radii, self.radius.cosine_threshold)

    def bound_to(self, binding: Binding) -> Certificate:
        """The same certificate, bound to a request and its answer."""
        model = self.model.model_copy(update={"language_model_digest": binding.language_model_digest})
        return self.model_copy(
            update={
                "request_id": binding.request_id,
                "model": model,
                "question": binding.question,
                "answer": binding.answer,
            }
        )

    def bound_as(self, other: Certificate) -> Certificate:
        """The same certificate, bound as another one is: with its served tokens and its commitment too."""
        binding = Binding(other.request_id, other.model.language_model_digest, other.question, other.answer)
        return self.bound_to(binding).model_copy(
            update={"served_tokens_sha256": other.served_tokens_sha256, "commitment": other.commitment}
        )

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        eps = [bound.eps for bound in self.bounds]
        if eps[0] <= 0.0 or eps != sorted(set(eps)):
            raise ValueError("the eps of bounds are not positive and ascending")
        return self

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
        chance: Chance | None,
        served_tokens_sha256: str,
        space: Space = "encoder_input",
        cached: bool = False,
        commitment: Commitment | None = None,
    ) -> Certificate:
        """The certificate of a statement; ValueError if noise or chance cosine are not those of the
        statement.
        """
        terms = statement.terms
        if noise.sigma != terms.sigma or noise.n_certify != statement.n_certify:
            raise ValueError("the noise described is not the noise that the statement is made from")
        if (None if chance is None else chance.p95) != terms.chance_cosine:
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
            served_tokens_sha256=served_tokens_sha256,
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
                upload=upload_radius(statement.radius, image),
            ),
            angular=tuple(AngularRadiusAt.of(radius, image) for radius in statement.angular),
            served=statement.served,
            target=target,
            outcome=statement.outcome,
            vacuous_because=statement.vacuous_because,
            chance=chance,
            cached=cached,
            commitment=commitment,
        )


@dataclass(frozen=True, slots=True)
class Binding:
    """What a certificate is bound to beside its picture.

    Attributes:
        request_id: of the request, or None.
        language_model_digest: see `CertifiedModel`.
        question: what the language model was asked, or None.
        answer: what it answered, or None.
    """

    request_id: str | None
    language_model_digest: str | None = None
    question: Question | None = None
    answer: AnswerRecord | None = None


def upload_radius(radius: float | None, image: CertifiedImage) -> float | None:
    """A radius at the encoder's input as one in `upload_space`, rounded down; None where there is no factor.

    A step of a grey value is the same step in three channels, which is longer by the root of 3.
    """
    if radius is None or image.resize_norm is None or image.upload_space is None:
        return None
    channels = 3 if image.upload_space == "decoded grey" else 1
    return radius / (image.resize_norm * math.sqrt(channels)) * (1.0 - 1e-12)
