"""Checks of one certificate for `smoothgate verify`. Each says what agrees and what differs."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from smoothgate.answer_verification import Check as Check
from smoothgate.answer_verification import check_answer
from smoothgate.certify.answer_certificate import AnswerCertificate
from smoothgate.certify.canonical import json_digest
from smoothgate.certify.certificate import Certificate
from smoothgate.certify.certificate_v1 import AnyCertificate
from smoothgate.certify.consistency import contradictions
from smoothgate.certify.signing import CertificateRejected, verify
from smoothgate.errors import MalformedRequest, SmoothgateError

if TYPE_CHECKING:
    from smoothgate.psm.unit_encoder import UnitEncoder
    from smoothgate.sampling.replay import Replay, Watch

#: Names of the rows that say what is not checked. They cannot fail.
UNCHECKED = frozenset({"on trust", "not covered"})

# By the arithmetic of the encoder here. Sums in another order or on another processor change a score by less
# than this. Another image or another seed changes it by more, except by chance.
_TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-3, "float16": 1e-3}
# Of numbers that are computed in float64 from the same inputs.
_ROUNDING = 1e-9
_LARGEST = 1_000_000_000
#: Most noise samples that are drawn again unless the caller allows more.
MAX_SAMPLES = 1 << 17

# What is certified from below: less than what comes out here is true as well.
_LOWER_BOUNDS = re.compile(
    r"score_lower|target\.(fcsb|angular)|(bounds|curve)\.\d+\.(fcsb|mean|layer_cake)|angular\.\d+\.(radius|upload)|"
    r"radius\.(value|mean|layer_cake|angular|upload)"
)
# What follows from other fields, and is checked against them (`smoothgate.certify.consistency`).
_FOLLOWS = {"outcome", "vacuous_because", "served", "stop_reason", "assumptions"}
# Nothing that a verifier has determines these.
_ON_TRUST = (
    "time",
    "request_id",
    "question",
    "answer",
    "served_tokens_sha256",
    "model.name",
    "model.language_model_digest",
    "commitment",
    "noise.degraded_from",
    "cached",
)


_HINTS = {
    "unknown_key": ". Fetch the key set again. A service without SMOOTHGATE_SIGNING_KEY_FILE makes a new key "
    "at every start, and nobody can check certificates of the one before"
}
_NOT_COVERED_OF_FEATURES = (
    "whether the answer is right, whether it stays the same under an attack, and changes of the picture "
    "beyond the stated radii: the certificate speaks of features"
)
_NOT_COVERED_OF_ANSWERS = (
    "whether the answer is right, other questions, and changes of the picture beyond the stated radius"
)


def read(text: str) -> list[tuple[str, dict[str, Any] | None]]:
    """The signed certificates in a text, each with the plain fields that are shown next to it, if there are
    any.

    The text is a JWS, a certificate as JSON, or a JSON answer of the service that holds `certificates` or an
    `answer_certificate`.

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
    if isinstance(value.get("answer_certificate"), dict):
        certificates = [value["answer_certificate"]]
    if not isinstance(certificates, list) or not all(
        isinstance(c, dict) and isinstance(c.get("jws"), str) for c in certificates
    ):
        raise MalformedRequest("This JSON holds no signed certificate (a field jws).")
    return [(c["jws"], {key: item for key, item in c.items() if key != "jws"}) for c in certificates]


def answered(text: str) -> list[str] | None:
    """The texts of the choices of an answer of the service; None: the text is no answer."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("answer"), str):
        return [value["answer"]]
    try:
        if value.get("object") == "response":  # OpenAI's Responses
            parts = [part for item in value["output"] for part in item.get("content", ())]
            return ["".join(part["text"] for part in parts if part["type"] == "output_text")]
        if value.get("type") == "message":  # Anthropic's Messages
            return ["".join(block["text"] for block in value["content"] if block["type"] == "text")]
        choices = sorted(value["choices"], key=lambda choice: choice.get("index", 0))
        return [str(choice["message"]["content"] or "") for choice in choices]
    except (KeyError, TypeError, AttributeError):
        return None


def check(
    jws: str,
    plain: Mapping[str, Any] | None,
    key_set: Mapping[str, Any],
    image: bytes | None = None,
    load_encoder: Callable[[int | None], UnitEncoder] | None = None,
    *,
    images: Sequence[bytes] = (),
    texts: Sequence[str] | None = None,
    max_samples: int = MAX_SAMPLES,
    asked_again: bool = False,
    watch: Watch | None = None,
) -> Iterator[Check]:
    """Check one certificate. With the image and the model, also draw the noise of features again and make
    their certificate again.

    Args:
        jws: the signed certificate.
        plain: the fields shown next to it, or None.
        key_set: a JWKS.
        image: the uploaded file, where the certificate is of features.
        load_encoder: gives the encoder of the model that the certificate should be about, with the limit on
            canvas pixels that the certificate names, in the arithmetic in which it was made.
        images: all uploaded files of the request, where the certificate is of an answer.
        texts: of the answer's choices, or None.
        max_samples: most noise samples that are drawn.
        asked_again: whether the votes of an answer are checked elsewhere (`smoothgate.vote_replay`).
        watch: see `Replay.of`.

    Raises:
        SmoothgateError: `load_encoder` cannot load it.
    """
    try:
        certificate = verify(jws, key_set)
    except CertificateRejected as error:
        yield Check("signature", False, f"{error.code}: {error}{_HINTS.get(error.code, '')}")
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
    if texts is not None and isinstance(certificate, Certificate) and certificate.answer is not None:
        same = certificate.answer.sha256 == json_digest(list(texts))
        yield Check(
            "answer", same, "the one signed, not certified" if same else "another one than was signed"
        )
    if isinstance(certificate, AnswerCertificate):
        yield from _named(check_answer(certificate, images, texts, asked_again=asked_again))
        yield Check("not covered", True, _NOT_COVERED_OF_ANSWERS)
        return
    yield from _named(_check_consistency(certificate))
    if image is not None:
        digest = hashlib.sha256(image).hexdigest()
        same = digest == certificate.image.sha256
        yield Check("image", same, "the one certified" if same else f"another one: {digest}")
        if same and load_encoder is not None:
            encoder = load_encoder(certificate.model.max_canvas_pixels)
            yield from _named(_check_model(certificate, image, encoder, max_samples, watch))
    if image is None or load_encoder is None:
        yield Check(
            "on trust", True, "the scores: without the picture and the model, no noise is drawn again"
        )
    yield Check("not covered", True, _NOT_COVERED_OF_FEATURES)


def _named(checks: Iterator[Check]) -> Iterator[Check]:
    """The same checks. Numbers that cannot be computed with end them, as a check that fails."""
    try:
        yield from checks
    except (ValueError, ArithmeticError, SmoothgateError) as error:
        yield Check("recomputation", False, f"cannot be done with these numbers: {error}")


def _check_consistency(certificate: AnyCertificate) -> Iterator[Check]:
    found = [f"{name}: {reason}" for name, reason in contradictions(certificate)]
    yield Check("consistency", not found, "; ".join(found) or "no field contradicts another")


def _check_model(
    certificate: AnyCertificate,
    image: bytes,
    encoder: UnitEncoder,
    max_samples: int,
    watch: Watch | None,
) -> Iterator[Check]:
    # Without a model, certificates are checked in an installation that has no torch.
    from smoothgate.sampling import noise
    from smoothgate.sampling.replay import Replay
    from smoothgate.vision import decode

    # The model's digest covers the PSM. The PSM is checked first, so that it is named if it differs.
    same = encoder.psm_digest == certificate.model.psm_digest
    yield Check("PSM", same, "the one certified" if same else f"another one: {encoder.psm_digest}")
    same = encoder.digest == certificate.model.digest
    yield Check("model", same, "the one certified" if same else f"another one: {encoder.digest}")
    if not same:
        return
    recorded = certificate.noise
    try:
        noise.generator_named(recorded.generator)
    except ValueError:
        yield Check("noise", False, f"its generator is not known here: {recorded.generator}")
        return
    samples = recorded.n_select + recorded.n_certify
    if samples > max_samples:
        yield Check("noise", False, f"{samples} samples are more than are drawn here: {max_samples}")
        return
    decoded = decode(image, max_pixels=_LARGEST)
    watched = {} if watch is None else {"watch": watch}
    again = Replay.of(encoder, decoded, encoder.adapter.canvas(decoded), certificate, **watched)
    yield from _compare(again)
    fields = leaves(certificate.model_dump(mode="json"))
    trusted = [name for name in _ON_TRUST if any(f"{field}.".startswith(f"{name}.") for field in fields)]
    yield Check("on trust", True, f"{', '.join(trusted)}: nothing here can check these")


def _compare(again: Replay) -> Iterator[Check]:
    """Hold the whole certificate against the one that comes out here."""
    close = _TOLERANCE[str(again.encoder.adapter.dtype).removeprefix("torch.")]
    certified = leaves(again.recorded.model_dump(mode="json"))
    here = leaves(again.certificate().model_dump(mode="json"))
    most = leaves(again.certificate(raised=close).model_dump(mode="json"))
    wrong: dict[str, list[str]] = {}
    for name in certified.keys() | here.keys():
        if name not in _FOLLOWS and not _agrees(
            name, certified.get(name), here.get(name), most.get(name), close
        ):
            wrong.setdefault(name.split(".")[0], []).append(
                f"{name}: {here.get(name)} here, {certified.get(name)} certified"
            )
    if again.recorded.stop_reason == "unreachable" and not again.is_out_of_reach(-close):
        wrong.setdefault("stop_reason", []).append("stop_reason: the target was not out of reach")
    for field in type(again.recorded).model_fields:
        yield Check(field, field not in wrong, "; ".join(sorted(wrong.get(field, ()))) or "the same here")


def _agrees(name: str, certified: Any, here: Any, most: Any, close: float) -> bool:
    if _LOWER_BOUNDS.fullmatch(name) and most is not None:
        return certified is None or certified <= most + close
    if name == "score_estimate":
        return bool(abs(certified - here) <= close)
    if re.fullmatch(r"curve\.\d+\.eps", name) and None not in (certified, here, most):
        return bool(abs(certified - here) <= abs(most - here) + close)
    if name == "image.resize_norm" and None not in (certified, here):
        return math.isclose(certified, here, rel_tol=_ROUNDING)
    return bool(certified == here)


def leaves(value: Any, name: str = "") -> dict[str, Any]:
    """The leaves of a JSON value by their path, such as `bounds.0.eps`."""
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return {name: value}
    return {k: v for key, item in items for k, v in leaves(item, f"{name}.{key}".lstrip(".")).items()}
