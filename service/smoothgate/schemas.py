"""The JSON of requests and answers, as the service and its client know it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from smoothgate.certify.answer_certificate import AnswerCertificate
from smoothgate.certify.certificate import Certificate

Finite = Annotated[float, Field(allow_inf_nan=False)]
Message = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class TargetOptions(BaseModel):
    """What is to be certified: sampling ends as soon as it is, or once the budget cannot reach it."""

    model_config = ConfigDict(extra="forbid")

    cosine: Finite | None = Field(
        None, ge=0, lt=1, description="The bound is to be at least this; left out: `cosine_threshold`,"
    )
    eps: Finite = Field(gt=0, description="at this l2 distance in the encoder's input space.")


class AnswerOptions(BaseModel):
    """What counts as the same answer. With nothing named it is the whole text."""

    model_config = ConfigDict(extra="forbid")

    choices: list[str] | None = Field(
        None,
        max_length=1000,
        description="The closed set of answers. Left out: as `structured_outputs` or "
        "`response_format` of the request say, or free text.",
    )
    field: str | None = Field(
        None, description="JSON pointer to the field of a JSON answer that is certified; the rest is not."
    )
    prefix: str = Field("", max_length=1000, description="Text that the answer is made to begin with.")


class SmoothingOptions(BaseModel):
    """The `smoothing` field of a request; what it leaves out is as the operator set it."""

    model_config = ConfigDict(extra="forbid")

    mode: Literal["certified", "off"] = Field(
        "certified", description="`off`: raw features and no certificate, only where the operator allows it."
    )
    certify: Literal["features", "answer"] | None = Field(
        None,
        description="What is certified: the features that the language model gets, or its answer; left "
        "out: as the operator set it.",
    )
    answer: AnswerOptions | None = Field(None, description="How answers are compared, for `answer`.")
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
    cosines: list[Annotated[Finite, Field(ge=0, lt=1)]] | None = Field(
        None,
        min_length=1,
        max_length=32,
        description="Cosines at which the angular radius is reported. They share alpha; a target has their "
        "whole part.",
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


class IssuedAnswerCertificate(AnswerCertificate):
    """A certificate of an answer as it is handed out."""

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
    answer_certificate: IssuedAnswerCertificate | None = Field(
        None, description="The certificate of the answer, where that is what is certified."
    )
    usage: dict[str, Any]
    timings: Timings


class CertifiedAnswer(BaseModel):
    """What is certified, beside the fields of an API's own answer."""

    model_config = ConfigDict(extra="allow")

    certificates: list[IssuedCertificate] | None = Field(
        None,
        description="One per picture, in the order they were sent; not there where nothing was smoothed.",
    )
    answer_certificate: IssuedAnswerCertificate | None = Field(
        None, description="The certificate of the answer, where that is what is certified."
    )


class CompletionAnswer(CertifiedAnswer):
    """OpenAI's completion, with what is certified. All other fields are vLLM's."""

    id: str
    object: Literal["chat.completion"]
    created: int = Field(description="Seconds since the epoch.")
    model: str
    choices: list[dict[str, Any]]
    usage: dict[str, Any] | None = None


class ResponsesAnswer(CertifiedAnswer):
    """A response of OpenAI's Responses API, with what is certified."""

    id: str
    object: Literal["response"]
    status: str
    model: str
    output: list[dict[str, Any]]
    usage: dict[str, Any] | None = None


class MessagesAnswer(CertifiedAnswer):
    """A message of Anthropic's Messages API, with what is certified."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: str | None
    usage: dict[str, Any]


class EmbeddingsAnswer(BaseModel):
    """OpenAI's list of embeddings: the smoothed features of pictures, with their certificates."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    model: str
    usage: dict[str, int]
    certificates: list[IssuedCertificate] = Field(description="In the order of the vectors.")


class ServiceVersion(BaseModel):
    """The version of a service, and the digests that its certificates carry, by `model`, `psm` and
    `language_model`.
    """

    version: str
    model: str
    digests: dict[str, str | None]


class ModelCard(BaseModel):
    """A model that the service answers with."""

    model_config = ConfigDict(extra="allow")

    id: str
    created: int
    owned_by: str


class ModelList(BaseModel):
    """The models that the service answers with."""

    model_config = ConfigDict(extra="allow")

    object: Literal["list"] = "list"
    data: list[ModelCard]


class KeySet(BaseModel):
    """A JWKS (RFC 7517): the public keys that certificates are signed with."""

    keys: list[dict[str, Any]]


class Health(BaseModel):
    """Whether the service takes requests.

    Attributes:
        status: `ok`, or `not ready`.
        problems: why it is not ready, by part.
    """

    status: str
    problems: dict[str, str] = {}


class CertifyRequest(BaseModel):
    """Pictures to certify without asking anything."""

    model_config = ConfigDict(extra="forbid")

    images: list[str] = Field(default_factory=list, description="Pictures as data URIs.")
    smoothing: SmoothingOptions | None = None


class CertifyAnswer(BaseModel):
    """One certificate per picture."""

    model: str
    certificates: list[IssuedCertificate]


class KeptCertificates(BaseModel):
    """The certificates of one request, of features or of its answer, as they were handed out."""

    request_id: str
    certificates: list[dict[str, Any]] = Field(
        description="In the order in which they were made, each with its `jws`."
    )


class LogCheckpoint(BaseModel):
    """The state of the log of commitments."""

    checkpoint: str = Field(
        description="A JWS in compact serialisation, for `/.well-known/jwks.json`: log, size, root, time."
    )


class LogProof(BaseModel):
    """A proof from the log of commitments (RFC 9162, sections 2.1.3 and 2.1.4). Hashes are hexadecimal."""

    size: int = Field(description="Number of entries of the tree that it is about.")
    path: list[str] = Field(description="Hashes of the proof, in the order of the RFC.")
    number: int | None = Field(None, description="Number of the entry, from 0; of a proof of inclusion.")
    leaf: str | None = Field(None, description="Hash of the entry; of a proof of inclusion.")
    first: int | None = Field(None, description="Size of the earlier tree; of a proof of consistency.")


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


def as_json(certificates: list[IssuedCertificate]) -> list[dict[str, Any]]:
    """Certificates as JSON objects."""
    return [certificate.model_dump(mode="json") for certificate in certificates]
