"""Checks of a certificate of an answer. No model is needed: all of it follows from the numbers of votes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from smoothgate.certify.answer_certificate import AnswerCertificate, sha256, voted_image

# Both sides are computed in float64, perhaps by other versions of scipy.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Check:
    """One check: its name, whether it passed, and what was found."""

    name: str
    passed: bool
    detail: str


def check_answer(
    certificate: AnswerCertificate,
    images: Sequence[bytes],
    texts: Sequence[str] | None,
    *,
    asked_again: bool = False,
) -> Iterator[Check]:
    """Recompute all that follows from the votes, and compare answer and pictures.

    Args:
        certificate: its signature is known to be good.
        images: the uploaded files, all or none.
        texts: of the answer, or None.
        asked_again: whether the votes are checked elsewhere, and need not be named as what is on trust.

    Raises:
        ValueError: numbers that contradict each other so far that nothing follows from them.
    """
    if texts is not None:
        same = len(texts) == 1 and sha256(texts[0]) == certificate.answer.text_sha256
        yield Check("answer", same, "the one certified" if same else "another one than was certified")
    found = list(_contradictions(certificate))
    yield Check("votes", not found, "; ".join(found) or "bounds, radius and outcome follow from them")
    if images:
        digests = [hashlib.sha256(image).hexdigest() for image in images]
        same = digests == [one.image.sha256 for one in certificate.images]
        yield Check("images", same, "those certified" if same else f"others: {', '.join(digests)}")
    if not asked_again:
        trusted = (
            "the votes themselves, question, model, seeds, request_id and time: nothing is asked again here"
        )
        yield Check("on trust", True, trusted)


def _contradictions(certificate: AnswerCertificate) -> Iterator[str]:
    count, answer = certificate.count, certificate.answer
    statement = count.statement()
    if certificate.p_low > statement.p_low + _ROUNDING:
        yield f"p_low is {certificate.p_low:.6f}, the votes give {statement.p_low:.6f}"
    if certificate.p_up < statement.p_up - _ROUNDING:
        yield f"p_up is {certificate.p_up:.6f}, the votes give {statement.p_up:.6f}"
    radius = None if answer.canonical is None else statement.radius
    if not _at_most(certificate.radius, radius):
        yield f"radius is {certificate.radius}, the votes give {radius}"
    for number, one in enumerate(certificate.images):
        here = voted_image(one.image, 0, certificate.radius)
        if not (_at_most(one.upload_radius, here.upload_radius) and _at_most(one.levels, here.levels)):
            yield f"images[{number}]: upload_radius and levels do not follow from the radius"
    holds = answer.canonical is not None and statement.certified
    if certificate.outcome != ("certified" if holds else "abstained"):
        yield f"outcome is {certificate.outcome}, the votes say {'certified' if holds else 'abstained'}"
    reason = "unreachable" if answer.canonical is None else count.reason or "deadline"
    if certificate.stop_reason != reason:
        yield f"stop_reason is {certificate.stop_reason}, the votes say {reason}"
    if (answer.form == "field") != (answer.pointer is not None):
        yield "form and pointer do not go together"
    if answer.canonical_sha256 != (None if answer.canonical is None else sha256(answer.canonical)):
        yield "canonical_sha256 is not that of the canonical answer"
    if certificate.assumptions != type(certificate).model_fields["assumptions"].default:
        yield "assumptions are not those under which certificates of this version are made"


def _at_most(stated: float | None, here: float | None) -> bool:
    """Whether a stated bound is no better than the one that comes out here."""
    if stated is None:
        return True
    return here is not None and stated <= here * (1 + _ROUNDING) and math.isfinite(stated)
