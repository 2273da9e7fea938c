"""The certificate of an answer: a radius within which the most probable answer stays the one that was sent.

The statement is that of `smoothgate.certify.votes`. It is one statement about all images of a request: their
canvases together are one vector, and the radius is that of one joint ball around it.
"""

from __future__ import annotations

import hashlib
import math
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from smoothgate.certify.certificate import (
    CertifiedImage,
    CertifiedModel,
    Commitment,
    Digest,
    Distance,
    Probability,
    Question,
    Size,
    upload_radius,
)
from smoothgate.certify.stopping import StopReason
from smoothgate.certify.votes import Tally, VoteCount, VoteStatement, VoteTerms

#: What the statement assumes and what it does not say. The reasons are in docs/certificates.md.
ASSUMPTIONS: tuple[str, ...] = (
    "The statement holds with probability at least 1 - alpha over the certification noise, which was drawn "
    "independently of the images and of the selection samples.",
    "It is about the most probable answer to noisy copies of the images, asked as the question says. A "
    "service that is asked about changed images within the radius in the same way gives this answer or "
    "abstains, but for its own alpha.",
    "Two answers are the same if their canonical forms are equal. What the canonical form leaves out is not "
    "covered.",
    "Messages, decoding, encoder and language model are fixed. Answers to different noisy copies are taken "
    "to be independent of each other.",
    "The radius is an l2 norm over the pixels of all encoder inputs of the request together, in [0, 1].",
    "That floating-point arithmetic is only close to a fixed function is not accounted for.",
    "Gaussian noise is drawn in floating point by a pseudo-random generator.",
)

Outcome = Literal["certified", "abstained"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class VotedImage(_Part):
    """One of the pictures, with the radius if it alone changes."""

    image: CertifiedImage
    """The picture."""
    seed: Annotated[str, Field(pattern="^[0-9a-f]+$")]
    """Seed of its noise, hexadecimal."""
    upload_radius: Distance | None
    """The radius in the pixels of the uploaded picture, if only this picture changes; null if unknown."""
    levels: Distance | None
    """The radius as levels of 255 per channel, if it is spread evenly over the encoder's input of this
    picture alone; null without a radius."""


class VotedAnswer(_Part):
    """The answer that most noisy copies gave."""

    form: Literal["choices", "field", "text"]
    """What was compared: a closed set of choices, a field of a JSON answer, or the whole text."""
    pointer: str | None
    """The JSON pointer of the field; null where none was named."""
    canonical: str | None
    """The answer in canonical form; null if the most frequent one was not of the form."""
    canonical_sha256: Digest | None
    """SHA-256 of the canonical form."""
    text_sha256: Digest
    """SHA-256 of the text that was sent."""


class Votes(_Part):
    """Numbers of samples."""

    hits: Annotated[int, Field(ge=0)]
    """Samples that gave the answer."""
    runner_up: Annotated[int, Field(ge=0)]
    """Samples that gave the second most frequent answer of the selection samples."""
    rest: Annotated[int, Field(ge=0)]
    """All others."""

    @classmethod
    def of(cls, tally: Tally) -> Votes:
        """From the numbers."""
        return cls(hits=tally.hits, runner_up=tally.runner_up, rest=tally.rest)

    @property
    def tally(self) -> Tally:
        """The numbers."""
        return Tally(self.hits, self.runner_up, self.rest)


class VoteNoise(_Part):
    """The noise of a vote, with all that is needed to draw it again."""

    distribution: Literal["gaussian"] = "gaussian"
    """Independent normal noise of mean 0 on every channel of every pixel."""
    sigma: Annotated[float, Field(gt=0.0)]
    """Standard deviation, in the encoder's input space (pixels in [0, 1])."""
    generator: str
    """How the samples follow from the seeds."""
    streams: Literal[2] = 2
    """Streams of a seed: selection sample i is sample i of the generator, and certification sample j is
    sample 2^32 + j. So no term of a request moves the samples that are counted."""
    budget: Size
    """The largest number of certification samples that could have been counted. The stakes of the bounds were
    chosen for it."""


class AnswerCertificate(_Part):
    """The most probable answer stays the same within a radius. That is true with probability at least 1 -
    alpha.

    `AnswerCertificate.statement` computes the bounds again from the numbers of votes.
    """

    version: Literal[2] = 2
    """Version of this schema."""
    kind: Literal["answer"] = "answer"
    """What is certified."""
    time: datetime
    """When the certificate was made."""
    request_id: str
    """The request that the answer belongs to."""
    images: Annotated[tuple[VotedImage, ...], Field(min_length=1)]
    """The pictures of the request, in order."""
    model: CertifiedModel
    """The encoder."""
    question: Question
    """What was asked."""
    answer: VotedAnswer
    """What most noisy copies answered."""
    noise: VoteNoise
    """The noise."""
    alpha: Probability
    """Error probability of the statement."""
    selection: Votes
    """Votes of the samples that chose the answer. They prove nothing."""
    votes: Votes
    """Votes of the fresh samples. The bounds are computed from them."""
    stop_reason: StopReason
    """Why sampling ended: the radius was certified, it was out of reach, the budget was used up, or the time
    was up."""
    p_low: Annotated[float, Field(ge=0.0, lt=1.0)]
    """Lower bound on the probability of the answer."""
    p_up: Annotated[float, Field(gt=0.0, le=1.0)]
    """Upper bound on the probability of every other answer."""
    radius: Distance | None
    """l2 radius of the joint ball around all encoder inputs; null: nothing is certified."""
    target: Distance | None
    """The radius that was asked for; null if none was."""
    outcome: Outcome
    """`certified`: the answer holds within `radius`, which is not below `target`. `abstained`: not so."""
    commitment: Commitment | None = None
    """The commitment to request and seeds; null where the service keeps no log."""
    assumptions: tuple[str, ...] = ASSUMPTIONS
    """What the statement assumes, and what it does not say."""

    @property
    def count(self) -> VoteCount:
        """The count of all votes, made again; ValueError if the numbers contradict each other."""
        terms = VoteTerms(self.noise.sigma, self.alpha, self.target)
        count = VoteCount(terms, self.selection.tally, self.noise.budget)
        count.update(self.votes.tally)
        return count

    @property
    def statement(self) -> VoteStatement:
        """The statement that follows from the votes; ValueError as `count`."""
        return self.count.statement()


def voted_image(image: CertifiedImage, seed: int, radius: float | None) -> VotedImage:
    """A picture with what the joint radius means for it alone, rounded down."""
    levels = None if radius is None else evenly_spread(radius, image.canvas_height, image.canvas_width)
    return VotedImage(
        image=image, seed=f"{seed:032x}", upload_radius=upload_radius(radius, image), levels=levels
    )


def evenly_spread(radius: float, height: int, width: int) -> float:
    """Levels of 255 in every colour of every pixel whose l2 norm is the radius, rounded down.

    Args:
        radius: l2, in pixels of [0, 1].
        height, width: of the canvas.
    """
    return radius / math.sqrt(3 * height * width) * 255 * (1 - 1e-12)


def sha256(text: str) -> str:
    """SHA-256 of a text in UTF-8, hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()
