"""Checks of one certificate for `smoothgate verify`. Each says what agrees and what differs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from smoothgate.certify.certificate import Certificate
from smoothgate.certify.signing import CertificateRejected, verify
from smoothgate.errors import MalformedRequest

if TYPE_CHECKING:
    from smoothgate.psm.unit_encoder import UnitEncoder

# By the encoder's arithmetic. Sums in another order or on another processor change a score by less than this.
# Another image or another seed changes it by more, except by chance. Bounds change faster than scores do.
_TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-3, "float16": 1e-3}
_STEEPNESS = 10
_LARGEST = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Check:
    """One check: its name, whether it passed, and what was found."""

    name: str
    passed: bool
    detail: str


def read(text: str) -> list[tuple[str, dict[str, Any] | None]]:
    """The signed certificates in a text, each with the plain fields that are shown next to it, if there are
    any.

    The text is a JWS, a certificate as JSON, or a JSON answer of the service that holds `certificates`.

    Raises:
        MalformedRequest: the text is none of these.
    """
    text = text.strip()
    if not text.startswith("{"):
        return [(text, None)]
    try:
        value = json.loads(text)
    except ValueError as error:
        raise MalformedRequest("This is neither JSON nor a JWS.") from error
    certificates = value.get("certificates", [value])
    if not isinstance(certificates, list) or not all(
        isinstance(c, dict) and isinstance(c.get("jws"), str) for c in certificates
    ):
        raise MalformedRequest("This JSON holds no signed certificate (a field jws).")
    return [(c["jws"], {key: item for key, item in c.items() if key != "jws"}) for c in certificates]


def check(
    jws: str,
    plain: Mapping[str, Any] | None,
    key_set: Mapping[str, Any],
    image: bytes | None = None,
    load_encoder: Callable[[int | None], UnitEncoder] | None = None,
) -> Iterator[Check]:
    """Check one certificate. With the image and the model, also replay the noise.

    Args:
        jws: the signed certificate.
        plain: the fields shown next to it, or None.
        key_set: a JWKS.
        image: the uploaded file.
        load_encoder: gives the encoder of the model that the certificate should be about, with the limit on
            canvas pixels that the certificate names.

    Raises:
        SmoothgateError: `load_encoder` cannot load it.
    """
    try:
        certificate = verify(jws, key_set)
    except CertificateRejected as error:
        yield Check("signature", False, f"{error.code}: {error}")
        return
    yield Check("signature", True, "made by a key of the set")
    if plain is not None:
        signed = certificate.model_dump(mode="json", exclude_unset=True)
        wrong = sorted(key for key in signed.keys() | plain.keys() if signed.get(key) != plain.get(key))
        yield Check(
            "shown fields",
            not wrong,
            f"differ from what was signed: {', '.join(wrong)}" if wrong else "as signed",
        )
    if image is not None:
        digest = hashlib.sha256(image).hexdigest()
        same = digest == certificate.image.sha256
        yield Check("image", same, "the one certified" if same else f"another one: {digest}")
        if same and load_encoder is not None:
            yield from _check_model(certificate, image, load_encoder(certificate.model.max_canvas_pixels))


def _check_model(certificate: Certificate, image: bytes, encoder: UnitEncoder) -> Iterator[Check]:
    # Without a model, certificates are checked in an installation that has no torch.
    from smoothgate.sampling import noise
    from smoothgate.sampling.replay import replay
    from smoothgate.vision import decode

    # The model's digest covers the PSM. The PSM is checked first, so that it is named if it differs.
    same = encoder.psm_digest == certificate.model.psm_digest
    yield Check("PSM", same, "the one certified" if same else f"another one: {encoder.psm_digest}")
    same = encoder.digest == certificate.model.digest
    yield Check("model", same, "the one certified" if same else f"another one: {encoder.digest}")
    if not same:
        return
    generator = certificate.noise.generator
    try:
        noise.generator_named(generator)
    except ValueError:
        yield Check("noise", False, f"its generator is not known here: {generator}")
        return
    canvas = encoder.adapter.canvas(decode(image, max_pixels=_LARGEST))
    norm = certificate.image.resize_norm
    yield Check("resize norm", norm == canvas.upload_norm, f"{canvas.upload_norm:.6g} here, {norm} certified")
    again = replay(encoder, canvas, certificate)
    close = _TOLERANCE.get(certificate.model.dtype, max(_TOLERANCE.values()))
    yield _compare("score estimate", again.score_estimate, certificate.score_estimate, close)
    yield _compare("score lower bound", again.score_lower, certificate.score_lower, _STEEPNESS * close)
    for point, bound in zip(again.points, certificate.bounds, strict=True):
        yield _compare(f"FCSB at {bound.eps:g}", point.value, bound.fcsb, _STEEPNESS * close)
    radius = certificate.radius.value
    if again.radius is None or radius is None:
        yield Check("radius", again.radius == radius, f"{again.radius} here, {radius} certified")
    else:
        yield _compare("radius", again.radius, radius, _STEEPNESS * close)
    same = again.outcome == certificate.outcome
    yield Check("outcome", same, f"{again.outcome} here, {certificate.outcome} certified")


def _compare(name: str, here: float, there: float, tolerance: float) -> Check:
    return Check(name, abs(here - there) <= tolerance, f"{here:.6f} here, {there:.6f} certified")
