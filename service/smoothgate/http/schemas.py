"""Bodies of requests and answers as JSON."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from smoothgate.gate.issuing import IssuedCertificate
from smoothgate.gate.policy import Finite, SmoothingOptions
from smoothgate.gate.request_timing import Stages

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


class Timings(BaseModel):
    """Where the time of a request went, in seconds."""

    decode: float = Field(description="Decoding and resizing the pictures.")
    select: float = Field(description="Until the served features were known.")
    certify: float = Field(
        description="Until the certificates were known, counted from the same start as select."
    )
    engine: float = Field(description="vLLM's part.")
    total: float = Field(description="The whole request.")

    @classmethod
    def of(cls, stages: Stages) -> Timings:
        """The times of a request until now."""
        return cls(
            decode=round(stages.decode, 4),
            select=round(stages.select, 4),
            certify=round(stages.certify, 4),
            engine=round(stages.engine, 4),
            total=round(stages.now(), 4),
        )


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


def as_json(certificates: list[IssuedCertificate]) -> list[dict[str, Any]]:
    """Certificates as JSON objects."""
    return [certificate.model_dump(mode="json") for certificate in certificates]
