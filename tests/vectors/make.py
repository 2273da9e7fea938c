"""Makes the test vectors, and the schemas of the JavaScript verifier: `python -m tests.vectors.make`.

Keys and scores follow from names, so that a second run changes nothing.
"""

import base64
import copy
import hashlib
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import BaseModel

from smoothgate.certify.answer_certificate import (
    AnswerCertificate,
    VotedAnswer,
    VoteNoise,
    Votes,
    sha256,
    voted_image,
)
from smoothgate.certify.canonical import json_digest
from smoothgate.certify.certificate import (
    AnswerRecord,
    Certificate,
    CertifiedImage,
    CertifiedModel,
    Chance,
    Commitment,
    NoiseRecord,
    Question,
)
from smoothgate.certify.certificate_v1 import CertificateV1
from smoothgate.certify.signing import PublicKey, SigningKey, jwks
from smoothgate.certify.statement import Target, Terms, certify
from smoothgate.certify.stopping import StopReason
from smoothgate.certify.votes import Tally, VoteCount, VoteTerms

Json = dict[str, Any]
Path_ = list[str | int]

HERE = Path(__file__).parent
FILE = HERE / "vectors.json"
SCHEMAS = Path("service/smoothgate/playground/static/verify/schemas.js")
_VERSION_1 = HERE.parent / "certify" / "version_1"
_PICTURE = (_VERSION_1 / "seven.png").read_bytes()
_TIME = datetime(2026, 11, 29, 12, 0, 0, 250000, UTC)
_TEXT = "The digit is 7."
_HEADER = {"alg": "Ed25519", "typ": "smoothgate-certificate+jws"}


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _key(name: str) -> tuple[SigningKey, Ed25519PrivateKey]:
    secret = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
    x = secret.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    fields = {name: _base64url(value) for name, value in (("x", x), ("d", secret.private_bytes_raw()))}
    jwk = {"kty": "OKP", "crv": "Ed25519", **fields}
    return SigningKey.load(json.dumps(jwk)), secret


CURRENT, OLD, STRANGE = (_key(f"smoothgate test vectors: {name}") for name in ("current", "old", "strange"))


def _image(*, grey: bool = False) -> CertifiedImage:
    return CertifiedImage(
        sha256=hashlib.sha256(_PICTURE).hexdigest(),
        width=192,
        height=192,
        canvas_width=48,
        canvas_height=48,
        resize_norm=0.2529,
        upload_space="decoded grey" if grey else "decoded RGB",
        upload_reason=None,
    )


_MODEL = CertifiedModel(
    name="smoothgate-demo",
    digest=_digest("model"),
    psm_digest=_digest("psm"),
    dtype="float32",
    language_model_digest=_digest("language model"),
)
_QUESTION = Question(messages_sha256=_digest("messages"), decoding_sha256=_digest("decoding"))
_COMMITMENT = Commitment(
    log="vectors", number=7, nonce=_digest("nonce")[:32], secret_digest=_digest("secret")
)


def _features(
    name: str,
    *,
    quality: float = 194.0,
    n: int = 400,
    budget: int | None = None,
    chance: float | None = 0.476,
    target: Target | None = None,
    stop: StopReason = "budget",
    cosines: Sequence[float] = (0.5, 0.8),
    grey: bool = False,
) -> Certificate:
    terms = Terms(0.5, 0.001, (0.25, 0.5, 1.0), 0.5, chance, target, tuple(cosines))
    scores = np.random.default_rng(list(name.encode())).beta(quality, 6.0, 64 + n)
    noise = NoiseRecord(
        sigma=0.5,
        generator="numpy PCG64",
        seed=_digest(name)[:32],
        n_select=64,
        n_certify=n,
        budget=budget or n,
    )
    made = Certificate.of(
        certify(terms, scores[:64], scores[64:], budget or n),
        stop_reason=stop,
        time=_TIME,
        image=_image(grey=grey),
        model=_MODEL,
        noise=noise,
        chance=None if chance is None else Chance(mean=0.016, p95=chance, pairs=300),
        served_tokens_sha256=_digest("tokens"),
        commitment=_COMMITMENT,
    )
    return made.model_copy(
        update={
            "request_id": name,
            "question": _QUESTION,
            "answer": AnswerRecord(sha256=json_digest([_TEXT])),
        }
    )


def _answer(
    name: str,
    selection: Tally,
    votes: Tally,
    *,
    budget: int = 200,
    target: float | None = 0.5,
    canonical: str | None = "the digit is 7.",
) -> AnswerCertificate:
    count = VoteCount(VoteTerms(0.5, 0.001, target), selection, budget)
    count.update(votes)
    statement = count.statement()
    radius = None if canonical is None else statement.radius
    image = voted_image(_image(), int(_digest(name)[:32], 16), radius)
    return AnswerCertificate(
        time=_TIME,
        request_id=name,
        images=(image, image),
        model=_MODEL,
        question=_QUESTION,
        answer=VotedAnswer(
            form="text",
            pointer=None,
            canonical=canonical,
            canonical_sha256=None if canonical is None else sha256(canonical),
            text_sha256=sha256(_TEXT),
        ),
        noise=VoteNoise(sigma=0.5, generator="numpy PCG64", budget=budget),
        alpha=0.001,
        selection=Votes.of(selection),
        votes=Votes.of(votes),
        stop_reason="unreachable" if canonical is None else count.reason or "deadline",
        p_low=statement.p_low,
        p_up=statement.p_up,
        radius=radius,
        target=target,
        outcome="certified" if canonical is not None and statement.certified else "abstained",
        commitment=_COMMITMENT,
    )


def _sign(content: Json, key: tuple[SigningKey, Ed25519PrivateKey] = CURRENT, **header: str) -> str:
    """A JWS of anything: `SigningKey` signs certificates alone."""
    head = _HEADER | {"kid": key[0].kid} | header
    signed = ".".join(_base64url(json.dumps(part).encode()) for part in (head, content))
    return f"{signed}.{_base64url(key[1].sign(signed.encode()))}"


def leaves(value: Any, path: Path_) -> Iterator[Path_]:
    """The path of each field of a JSON value; of the items of a list, those of the first."""
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from leaves(item, [*path, name])
    elif isinstance(value, list) and value:
        yield from leaves(value[0], [*path, 0])
    else:
        yield path


def edited(value: Json, at: Path_, to: Any) -> Json:
    """A JSON object with another value at a path."""
    value = copy.deepcopy(value)
    place: Any = value
    for step in at[:-1]:
        place = place[step]
    place[at[-1]] = to
    return value


def _other(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 0.125 if isinstance(value, float) else value + 1
        case str():
            return ("1" if value.startswith("0") else "0") + value[1:]
        case _:
            return 0.125


def _shown(certificate: BaseModel, signature: str) -> Json:
    return certificate.model_dump(mode="json") | {"jws": signature}


def _at(value: Any, path: Path_) -> Any:
    for step in path:
        value = value[step]
    return value


_GOOD = {"signature": True, "shown fields": True, "answer": True, "consistency": True, "image": True}
_GOOD_ANSWER = {"signature": True, "shown fields": True, "answer": True, "votes": True, "images": True}


def _whole() -> Iterator[Json]:
    """Vectors that pass."""
    features = {
        "features": _features("features"),
        "features-grey": _features("features-grey", grey=True),
        "features-certified": _features(
            "features-certified", n=300, budget=400, target=Target(0.5, 0.25), stop="certified"
        ),
        "features-abstained": _features("features-abstained", quality=60.0, target=Target(0.9, 1.0)),
        "features-vacuous": _features("features-vacuous", quality=12.0),
        "features-uncalibrated": _features("features-uncalibrated", chance=None),
        "features-inner-product": _features("features-inner-product", cosines=()),
    }
    for name, certificate in features.items():
        given: Json = {"answer": _TEXT, "certificates": [_shown(certificate, CURRENT[0].sign(certificate))]}
        yield {"name": name, "given": given, "images": ["seven.png"], "checks": _GOOD}
    answers = {
        "answer": _answer("answer", Tally(16), Tally(44)),
        "answer-runner-up": _answer("answer-runner-up", Tally(14, 1, 1), Tally(180, 12, 8), target=None),
        "answer-abstained": _answer("answer-abstained", Tally(9, 5, 2), Tally(11, 7, 2)),
        "answer-deadline": _answer("answer-deadline", Tally(16), Tally(20)),
        "answer-of-no-form": _answer("answer-of-no-form", Tally(16), Tally(44), canonical=None),
    }
    for name, voted in answers.items():
        given = {
            "choices": [{"index": 0, "message": {"content": _TEXT}}],
            "answer_certificate": _shown(voted, CURRENT[0].sign(voted)),
        }
        yield {"name": name, "given": given, "images": ["seven.png"] * 2, "checks": _GOOD_ANSWER}
    one = _features("forms")
    shown = {"certificates": [_shown(one, CURRENT[0].sign(one))]}
    content = [{"type": "output_text", "text": _TEXT}]
    response = {"object": "response", "output": [{"type": "message", "content": content}]}
    yield {"name": "responses", "given": response | shown, "images": [], "checks": _without("image")}
    message = {"type": "message", "content": [{"type": "text", "text": _TEXT}]}
    yield {"name": "messages", "given": message | shown, "images": [], "checks": _without("image")}
    yield {
        "name": "jws-alone",
        "given": CURRENT[0].sign(one),
        "images": ["seven.png"],
        "checks": _without("shown fields", "answer"),
    }
    yield {
        "name": "old-key",
        "given": OLD[0].sign(one),
        "images": [],
        "checks": {"signature": True, "consistency": True},
    }
    for path in sorted(_VERSION_1.glob("*.json")):
        if path.stem != "keys":
            yield {
                "name": f"version-1-{path.stem}",
                "given": json.loads(path.read_text()),
                "images": [],
                "checks": _without("image", "answer"),
                "keys": "version 1",
            }


def _without(*names: str) -> dict[str, bool]:
    return {name: passed for name, passed in _GOOD.items() if name not in names}


def _tampered(vectors: Sequence[Json]) -> Iterator[Json]:
    """Every field of a certificate of each kind changed, once where it is shown, once where it is signed."""
    refused = {"signature": False}
    for name in ("features-certified", "answer", "version-1-target-met"):
        (vector,) = [each for each in vectors if each["name"] == name]
        given = vector["given"]
        where: Path_ = []
        for step in ("certificates", "answer_certificate"):
            if step in given:
                where = [step, 0] if step == "certificates" else [step]
        certificate = {key: value for key, value in _at(given, where).items() if key != "jws"}
        for path in leaves(certificate, []):
            change = {"at": path, "to": _other(_at(certificate, path))}
            label = ".".join(map(str, path))
            same = {"of": name, "images": vector["images"]} | (
                {"keys": vector["keys"]} if "keys" in vector else {}
            )
            yield {
                "name": f"{name}: shown {label}",
                **same,
                "shown": change | {"at": [*where, *path]},
                "checks": vector["checks"] | {"shown fields": False},
            }
            yield {"name": f"{name}: signed {label}", **same, "payload": change, "checks": refused}
    for name in ("features", "answer"):
        (vector,) = [each for each in vectors if each["name"] == name]
        same = {"of": name, "images": vector["images"]}
        answer: Path_ = ["answer"] if name == "features" else ["choices", 0, "message", "content"]
        yield {
            "name": f"{name}: another answer",
            **same,
            "shown": {"at": answer, "to": "The digit is 1."},
            "checks": vector["checks"] | {"answer": False},
        }
        picture = "image" if name == "features" else "images"
        yield {
            "name": f"{name}: another picture",
            "of": name,
            "images": ["other.png"] * len(vector["images"]),
            "checks": vector["checks"] | {picture: False},
        }


def _signed_wrongly() -> Iterator[Json]:
    """What a key of the set signed although it cannot be."""
    consistent = {"signature": True, "consistency": False}
    voted = {"signature": True, "votes": False}
    refused = {"signature": False}
    bounded = _features("signed").model_dump(mode="json")
    certified = _features(
        "signed-target", n=300, budget=400, target=Target(0.5, 0.25), stop="certified"
    ).model_dump(mode="json")
    upload = bounded["radius"]["upload"]
    for base, path, value in (
        (bounded, "bounds.0.fcsb", 0.99),
        (bounded, "bounds.0.mean", bounded["bounds"][0]["mean"] + 1e-6),
        (bounded, "curve.3.mean", bounded["curve"][3]["mean"] + 1e-6),
        (bounded, "score_lower", bounded["score_lower"] + 1e-6),
        (bounded, "radius.value", bounded["radius"]["value"] + 1e-6),
        (bounded, "radius.mean", bounded["radius"]["mean"] + 1e-6),
        (bounded, "radius.angular", 3.0),
        (bounded, "radius.upload", upload * (1 + 1e-9)),
        (bounded, "angular.0.upload", 9.0),
        (bounded, "image.upload_space", "decoded grey"),
        (bounded, "served", "mean" if bounded["served"] != "mean" else "layer_cake"),
        (bounded, "outcome", "certified"),
        (bounded, "vacuous_because", "not calibrated"),
        (bounded, "stop_reason", "deadline"),
        (bounded, "chance.p95", 0.999),
        (bounded, "assumptions", []),
        (bounded, "noise.sigma", 0.51),
        (certified, "target.fcsb", 0.9),
        (certified, "stop_reason", "budget"),
        (certified, "outcome", "bounded"),
    ):
        yield _resigned("features", base, path, value, consistent)
    for path, value in (
        ("noise.n_certify", 500),
        ("version", 1),
        ("version", 3),
        ("alpha", 1.0),
        ("unknown", 1),
        ("image.sha256", "abc"),
        ("time", "yesterday"),
        ("bounds", []),
        ("noise", None),
    ):
        yield _resigned("features", bounded, path, value, refused)
    answer = _answer("signed-answer", Tally(16), Tally(44)).model_dump(mode="json")
    for path, value in (
        ("p_low", answer["p_low"] + 1e-6),
        ("p_up", answer["p_up"] - 1e-6),
        ("radius", answer["radius"] + 1e-6),
        ("images.0.upload_radius", answer["images"][0]["upload_radius"] * 1.001),
        ("images.1.levels", answer["images"][1]["levels"] * 1.001),
        ("votes.hits", 43),
        ("votes.runner_up", 1),
        ("selection.rest", 16),
        ("noise.sigma", 0.4),
        ("alpha", 0.0001),
        ("target", 2.0),
        ("outcome", "abstained"),
        ("stop_reason", "budget"),
        ("answer.canonical", "the digit is 1."),
        ("answer.pointer", "/digit"),
        ("assumptions", ["none"]),
    ):
        yield _resigned("answer", answer, path, value, voted)
    yield _resigned("answer", answer, "votes.hits", -1, refused)
    yield _resigned("answer", answer, "noise.budget", 20, {"signature": True, "recomputation": False})
    yield {
        "name": "features: version 2 under the algorithm of version 1",
        "given": _sign(bounded, alg="EdDSA"),
        "images": [],
        "checks": refused,
    }
    yield {
        "name": "a key that is not in the set",
        "given": _sign(bounded, STRANGE),
        "images": [],
        "checks": refused,
    }
    yield {
        "name": "a key that is no longer in the set",
        "given": _sign(bounded, OLD),
        "images": [],
        "checks": refused,
        "keys": "rotated",
    }
    yield {
        "name": "the id of another key",
        "given": _sign(bounded, STRANGE, kid=CURRENT[0].kid),
        "images": [],
        "checks": refused,
    }
    yield {"name": "no JWS", "given": "abc.def", "images": [], "checks": refused}


def _resigned(kind: str, base: Json, label: str, value: Any, checks: dict[str, bool]) -> Json:
    path: Path_ = [int(step) if step.isdigit() else step for step in label.split(".")]
    name = f"{kind}: signed with {label} = {json.dumps(value)}"
    return {"name": name, "given": _sign(edited(base, path, value)), "images": [], "checks": checks}


def made() -> Json:
    """The file of vectors."""
    whole = list(_whole())
    public: list[PublicKey] = [CURRENT[0], OLD[0]]
    pictures = {"seven.png": _PICTURE, "other.png": (_VERSION_1 / "odd.png").read_bytes()}
    return {
        "keys": {
            "service": jwks(public),
            "rotated": jwks(public[:1]),
            "version 1": json.loads((_VERSION_1 / "keys.json").read_text()),
        },
        "files": {name: base64.b64encode(data).decode() for name, data in pictures.items()},
        "vectors": [
            {"keys": "service"} | vector for vector in (*whole, *_tampered(whole), *_signed_wrongly())
        ],
    }


def text() -> str:
    """The same as JSON, with a line for each vector."""
    content = made()
    *_, vectors = content.values()
    head = json.dumps(content | {"vectors": []}).removesuffix("[]}")
    return head + "[\n" + ",\n".join(map(json.dumps, vectors)) + "\n]}\n"


def schemas() -> str:
    """The schemas of the JavaScript verifier, as they follow from the models."""
    written = "// The schemas of certificates, made of the service's own by `python -m tests.vectors.make`.\n"
    for name, model in (
        ("FEATURES_2", Certificate),
        ("FEATURES_1", CertificateV1),
        ("ANSWER", AnswerCertificate),
    ):
        written += f"\nexport const {name} = {json.dumps(_bare(model.model_json_schema()))};\n"
    return written


def _bare(value: Any, *, names: bool = False) -> Any:
    """A schema without its texts. `names`: whether the keys are names of fields."""
    if isinstance(value, dict):
        return {
            key: _bare(item, names=key in ("properties", "$defs") and not names)
            for key, item in value.items()
            if names or key not in ("description", "title")
        }
    return [_bare(item) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    FILE.write_text(text())
    SCHEMAS.write_text(schemas())
