"""What is certified, in two headers: for clients that drop fields they do not know."""

from __future__ import annotations

from collections.abc import Sequence

from smoothgate.gate.answering import Answer
from smoothgate.schemas import IssuedCertificate

OUTCOME, RADIUS = "Smoothgate-Outcome", "Smoothgate-Radius"
#: Of the filter for gateways, which has no body to put certificates into: each as a JWS, with commas between.
CERTIFICATE = "Smoothgate-Certificate"
# From the weakest to the strongest.
_OUTCOMES = ("vacuous", "abstained", "bounded", "certified")


def outcome_headers(answer: Answer) -> dict[str, str]:
    """`Smoothgate-Outcome` and `Smoothgate-Radius`: of the answer, or the weakest of all images' features.

    Without a certificate there are none, and without a radius there is no second one.
    """
    if answer.answer_certificate is not None:
        return _headers(answer.answer_certificate.outcome, answer.answer_certificate.radius)
    return features_headers(answer.certificates)


def features_headers(certificates: Sequence[IssuedCertificate] | None) -> dict[str, str]:
    """The same headers, of the weakest of these certificates."""
    if not certificates:
        return {}
    outcome = min((one.outcome for one in certificates), key=_OUTCOMES.index)
    radii = [one.radius.value for one in certificates]
    return _headers(outcome, None if None in radii else min(one for one in radii if one is not None))


def _headers(outcome: str, radius: float | None) -> dict[str, str]:
    headers = {OUTCOME: outcome}
    return headers if radius is None else headers | {RADIUS: f"{radius:.6g}"}
