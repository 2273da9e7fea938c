"""What is certified, in two headers: for clients that drop fields they do not know."""

from __future__ import annotations

from smoothgate.gate.answering import Answer

OUTCOME, RADIUS = "Smoothgate-Outcome", "Smoothgate-Radius"
# From the weakest to the strongest.
_OUTCOMES = ("vacuous", "abstained", "bounded", "certified")


def outcome_headers(answer: Answer) -> dict[str, str]:
    """`Smoothgate-Outcome` and `Smoothgate-Radius`: of the answer, or the weakest of all images' features.

    Without a certificate there are none, and without a radius there is no second one.
    """
    outcome: str
    if answer.answer_certificate is not None:
        outcome, radius = answer.answer_certificate.outcome, answer.answer_certificate.radius
    elif answer.certificates:
        outcome = min((one.outcome for one in answer.certificates), key=_OUTCOMES.index)
        radii = [one.radius.value for one in answer.certificates]
        radius = None if None in radii else min(one for one in radii if one is not None)
    else:
        return {}
    headers: dict[str, str] = {OUTCOME: outcome}
    return headers if radius is None else headers | {RADIUS: f"{radius:.6g}"}
