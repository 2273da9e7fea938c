"""What the log of commitments holds, and what is signed of it.

Before the first noise is drawn, the log takes a commitment to the request and to the seed: one for each
image whose features are certified, and one for all images of an answer that is certified. When the
certificate is signed, the log takes its digest. Both entries follow from the certificate, so that whoever
has it can look for them. A random nonce in the certificate keeps all others from guessing what an entry is
about.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from smoothgate.certify.answer_certificate import AnswerCertificate
from smoothgate.certify.certificate import Certificate, Commitment, Digest, Question

_LABEL = b"smoothgate commitment v1\0"


class Checkpoint(BaseModel):
    """The state of a log at a time: a signed tree head (RFC 9162, section 4.10)."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    log: str
    """Identifier of the log. A checkpoint says nothing about another one."""
    size: int = Field(ge=0)
    """Number of entries."""
    root: Digest
    """Root of the Merkle tree over them (RFC 9162, 2.1.1), hexadecimal."""
    time: datetime
    """When the checkpoint was signed."""


def commitment_of(nonce: str, request: Mapping[str, object], seed: str | Sequence[str]) -> str:
    """SHA-256 over nonce, request and seed, hexadecimal.

    Args:
        nonce: hexadecimal.
        request: as `request_of` or `answer_request_of` gives it.
        seed: as the certificate has it; of an answer, the seed of each image.
    """
    content = json.dumps([nonce, request, seed], sort_keys=True, allow_nan=False)
    return hashlib.sha256(_LABEL + content.encode()).hexdigest()


def request_of(certificate: Certificate) -> dict[str, object]:
    """What a certificate says of its request: picture, encoder and all that was asked for."""
    noise, target = certificate.noise, certificate.target
    return request(
        image=certificate.image.sha256,
        model=certificate.model.digest,
        sigma=noise.sigma,
        n_select=noise.n_select,
        budget=noise.budget,
        alpha=certificate.alpha,
        eps=tuple(bound.eps for bound in certificate.bounds),
        cosine_threshold=certificate.radius.cosine_threshold,
        cosines=tuple(each.cosine for each in certificate.angular),
        target=None if target is None else (target.cosine, target.eps),
    )


def request(
    *,
    image: str,
    model: str,
    sigma: float,
    n_select: int,
    budget: int,
    alpha: float,
    eps: tuple[float, ...],
    cosine_threshold: float,
    cosines: tuple[float, ...],
    target: tuple[float, float] | None,
) -> dict[str, object]:
    """The part of a request that is committed to, as JSON. The names are those of the certificate.

    Args:
        image: SHA-256 of the uploaded file, hexadecimal.
        model: digest of the encoder.
        sigma, n_select, budget: of the noise.
        alpha: of this image.
        eps: distances at which bounds are asked for.
        cosine_threshold: of the radius.
        cosines: at which angular radii are asked for.
        target: cosine and eps, or None.
    """
    return {
        "image": image,
        "model": model,
        "sigma": sigma,
        "n_select": n_select,
        "budget": budget,
        "alpha": alpha,
        "eps": eps,
        "cosine_threshold": cosine_threshold,
        "cosines": cosines,
        "target": target,
    }


def answer_request_of(certificate: AnswerCertificate) -> dict[str, object]:
    """What the certificate of an answer says of its request: pictures, model, question and all terms."""
    return answer_request(
        images=[one.image.sha256 for one in certificate.images],
        model=certificate.model.digest,
        question=certificate.question,
        form=certificate.answer.form,
        pointer=certificate.answer.pointer,
        sigma=certificate.noise.sigma,
        n_select=certificate.selection.tally.n,
        budget=certificate.noise.budget,
        alpha=certificate.alpha,
        target=certificate.target,
    )


def answer_request(
    *,
    images: Sequence[str],
    model: str,
    question: Question,
    form: str,
    pointer: str | None,
    sigma: float,
    n_select: int,
    budget: int,
    alpha: float,
    target: float | None,
) -> dict[str, object]:
    """The part of a request for a certified answer that is committed to, as JSON.

    Args:
        images: SHA-256 of each uploaded file, hexadecimal, in order.
        model: digest of the encoder.
        question: what the language model is asked.
        form, pointer: what is compared.
        sigma, budget: of the noise.
        n_select: samples that choose the answer.
        alpha: of the statement.
        target: the radius that is asked for, or None.
    """
    return {
        "kind": "answer",
        "images": images,
        "model": model,
        "question": question.model_dump(),
        "form": form,
        "pointer": pointer,
        "sigma": sigma,
        "n_select": n_select,
        "budget": budget,
        "alpha": alpha,
        "target": target,
    }


def commitment_entry(secret_digest: str, commitment: str) -> bytes:
    """The entry of a log that is made before the first noise is drawn."""
    return _entry(type="commitment", secret=secret_digest, commitment=commitment)


def certificate_entry(commitment_number: int, jws: str) -> bytes:
    """The entry of a log that is made once a certificate is signed."""
    digest = hashlib.sha256(jws.encode()).hexdigest()
    return _entry(type="certificate", commitment=commitment_number, certificate=digest)


def committed_entry(certificate: Certificate | AnswerCertificate, commitment: Commitment) -> bytes:
    """The entry that must stand in the log under the number that a certificate names."""
    request: dict[str, object]
    seed: str | list[str]
    if isinstance(certificate, AnswerCertificate):
        request, seed = answer_request_of(certificate), [one.seed for one in certificate.images]
    else:
        request, seed = request_of(certificate), certificate.noise.seed
    return commitment_entry(commitment.secret_digest, commitment_of(commitment.nonce, request, seed))


def _entry(**fields: str | int) -> bytes:
    return json.dumps(fields, sort_keys=True).encode()
