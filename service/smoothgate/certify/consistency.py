"""What the numbers of a certificate say about each other. No model and no noise is needed to check it.

A certificate repeats itself: the served bound is the better of two, the outcome follows from bounds and
target, the radius in upload space from the radius. Whoever signs may contradict themselves, so `verify`
computes these again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from smoothgate.certify import fcsb
from smoothgate.certify.certificate import BoundAt, upload_radius
from smoothgate.certify.certificate_v1 import AnyCertificate, CertificateV1, outcome_v1, upload_radius_v1
from smoothgate.certify.certificate_v1 import BoundAt as BoundAtV1
from smoothgate.certify.statement import outcome_of

# Both sides are computed in float64, perhaps by other versions of scipy.
_ROUNDING = 1e-9


def contradictions(certificate: AnyCertificate) -> Iterator[tuple[str, str]]:
    """The fields that contradict other fields, each with what they should say.

    Raises:
        ValueError, ArithmeticError: the numbers are so far out of range that nothing follows from them.
    """
    yield from _contradicted_bounds(certificate)
    yield from _contradicted_radius(certificate)
    if not _is(certificate.stop_reason, certificate):
        yield "stop_reason", f"{certificate.stop_reason} does not go with target and number of samples"
    yield from _contradicted_outcome(certificate)
    if certificate.assumptions != type(certificate).model_fields["assumptions"].default:
        yield "assumptions", "not those under which certificates of this version are made"


def _contradicted_outcome(certificate: AnyCertificate) -> Iterator[tuple[str, str]]:
    first = certificate.bounds[0]
    is_met = None if certificate.target is None else _is_met(certificate)
    if isinstance(certificate, CertificateV1):
        outcome: str = outcome_v1(first.fcsb, certificate.chance.p95, is_met)
    else:
        chance = certificate.chance
        by_angle = [a.cosine for a in certificate.angular if a.radius is not None and a.radius >= first.eps]
        cosine = max(first.fcsb, *by_angle, -1.0)
        outcome, because = outcome_of(cosine, None if chance is None else chance.p95, is_met)
        if certificate.vacuous_because != because:
            yield "vacuous_because", f"{certificate.vacuous_because}, but the bounds say {because}"
    if certificate.outcome != outcome:
        yield "outcome", f"{certificate.outcome}, but the bounds say {outcome}"


def _contradicted_bounds(certificate: AnyCertificate) -> Iterator[tuple[str, str]]:
    sigma, lower = certificate.noise.sigma, certificate.score_lower
    listed: tuple[tuple[str, Sequence[BoundAt | BoundAtV1]], ...] = (
        ("bounds", certificate.bounds),
        ("curve", certificate.curve),
    )
    for name, points in listed:
        for number, point in enumerate(points):
            where = f"{name}[{number}] at {point.eps:g}"
            if point.fcsb != max(point.mean, point.layer_cake):
                yield where, f"fcsb {point.fcsb:.6f} is not the better of mean and layer_cake"
            mean = fcsb.mean_bound(lower, point.eps, sigma)
            if abs(point.mean - mean) > _ROUNDING:
                yield where, f"mean {point.mean:.6f}, but score_lower gives {mean:.6f}"
    target = certificate.target
    at = {bound.eps: bound.fcsb for bound in certificate.bounds}
    if target is not None and target.fcsb != at.get(target.eps):
        yield "target.fcsb", "not the bound at the target's eps"


def _contradicted_radius(certificate: AnyCertificate) -> Iterator[tuple[str, str]]:
    radius = certificate.radius
    mean = fcsb.mean_radius(certificate.score_lower, radius.cosine_threshold, certificate.noise.sigma)
    if (radius.mean is None) != (mean is None) or abs((radius.mean or 0.0) - (mean or 0.0)) > _ROUNDING:
        yield "radius.mean", f"{radius.mean}, but score_lower gives {mean}"
    by_angle = None if isinstance(certificate, CertificateV1) else certificate.radius_by_angle
    if not isinstance(certificate, CertificateV1) and certificate.radius.angular != by_angle:
        yield "radius.angular", f"{certificate.radius.angular}, but angular gives {by_angle}"
    known = [each for each in (radius.mean, radius.layer_cake, by_angle) if each is not None]
    if radius.value != max(known, default=None):
        yield "radius.value", f"{radius.value} is not the largest of mean, layer_cake and angular"
    if isinstance(certificate, CertificateV1):
        upload = upload_radius_v1(radius.value, certificate.image.resize_norm)
    else:
        upload = upload_radius(radius.value, certificate.image)
        for number, each in enumerate(certificate.angular):
            here = upload_radius(each.radius, certificate.image)
            # Certificates of earlier releases do not state it.
            if "upload" in each.model_fields_set and each.upload != here:
                yield f"angular[{number}].upload", f"{each.upload}, but radius and resize_norm give {here}"
    if radius.upload != upload:
        yield "radius.upload", f"{radius.upload}, but value and resize_norm give {upload}"
    if radius.value is None:
        served = "layer_cake" if certificate.bounds[0].layer_cake > certificate.bounds[0].mean else "mean"
    else:
        served = "mean" if radius.value == radius.mean else "layer_cake"
        if radius.value not in (radius.mean, radius.layer_cake):
            served = "angular"
    if certificate.served != served:
        yield "served", f"{certificate.served}, but the numbers say {served}"


def _is(reason: str, certificate: AnyCertificate) -> bool:
    """Whether sampling may have ended for this reason."""
    target, noise = certificate.target, certificate.noise
    is_met = _is_met(certificate)
    match reason:
        case "certified":
            return is_met
        case "budget":
            return not is_met and noise.n_certify == noise.budget
        case "unreachable":
            return target is not None and not is_met and noise.n_certify < noise.budget
        case _:
            return not is_met and noise.n_certify < noise.budget


def _is_met(certificate: AnyCertificate) -> bool:
    """Whether there is a target, and the bound or the angle meets it."""
    target = certificate.target
    if target is None:
        return False
    if isinstance(certificate, CertificateV1) or target.fcsb >= target.cosine:
        return target.fcsb >= target.cosine
    return any(a.cosine >= target.cosine and (a.radius or -1.0) >= target.eps for a in certificate.angular)
