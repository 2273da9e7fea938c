"""Certificates as signed text: JWS compact serialisation with an Ed25519 key.

Version 2 of the certificate names the algorithm `Ed25519` (RFC 9864). Version 1 names it `EdDSA` (RFC 8037,
now deprecated). The signature is the same.

Anyone who has the published key set can check a certificate offline. Key ids are RFC 7638 thumbprints. To
rotate keys, sign with a new key and go on publishing the public half of the old one.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, TypeVar

from joserfc import jws
from joserfc.errors import JoseError, UnsupportedAlgorithmError
from joserfc.jwk import OKPKey
from pydantic import BaseModel, ValidationError

from smoothgate.certify.answer_certificate import AnswerCertificate
from smoothgate.certify.certificate import Certificate
from smoothgate.certify.certificate_v1 import AnyCertificate, CertificateV1
from smoothgate.certify.commitment import Checkpoint

ALGORITHM = "Ed25519"
#: Everything that is signed.
Signed = AnyCertificate | AnswerCertificate
_ALGORITHMS = (ALGORITHM, "EdDSA")
TYPE = "smoothgate-certificate+jws"
CHECKPOINT_TYPE = "smoothgate-checkpoint+jws"

M = TypeVar("M", bound=BaseModel)


class CertificateRejected(ValueError):
    """The text is not a certificate signed by a key of the key set.

    Attributes:
        code: a stable name of the reason.
    """

    code: ClassVar[str]


class UnknownKey(CertificateRejected):
    """The text names a key that is not in the key set."""

    code = "unknown_key"


class BadSignature(CertificateRejected):
    """The text is not a JWS, or its content is not what was signed."""

    code = "bad_signature"


class WrongSchema(CertificateRejected):
    """The signature is good, but the content is not a certificate of a known version."""

    code = "wrong_schema"


class _Ed25519Only(jws.JWSRegistry):  # type: ignore[misc]
    """Accepts the two names of Ed25519 and no other algorithm. joserfc warns about the older one."""

    def get_alg(self, name: str) -> Any:
        if name not in _ALGORITHMS:
            raise UnsupportedAlgorithmError(f"{name} is not {ALGORITHM}")
        return self.algorithms[name]


_REGISTRY = _Ed25519Only()


class PublicKey:
    """The public half of an Ed25519 key. `kid` is its RFC 7638 thumbprint."""

    def __init__(self, key: OKPKey) -> None:
        if key.curve_name != "Ed25519":
            raise ValueError("the key is not an Ed25519 key")
        self._key = key
        self.kid: str = key.thumbprint()

    @classmethod
    def load(cls, text: str) -> PublicKey:
        """From PEM or JWK text, public or private; ValueError for anything but an Ed25519 key."""
        return cls(_import(text))

    def jwk(self) -> dict[str, str]:
        """The public half as a JWK with `kid` and `use`. It has no `alg`: the two versions of the certificate
        name it differently.
        """
        public = self._key.as_dict(private=False)
        return {name: public[name] for name in ("kty", "crv", "x")} | {"kid": self.kid, "use": "sig"}


class SigningKey(PublicKey):
    """An Ed25519 key that can sign."""

    def __init__(self, key: OKPKey) -> None:
        super().__init__(key)
        if not key.is_private:
            raise ValueError("the key has no private half")

    @classmethod
    def generate(cls) -> SigningKey:
        """A fresh key."""
        return cls(OKPKey.generate_key("Ed25519"))

    @classmethod
    def load(cls, text: str) -> SigningKey:
        """From PEM (PKCS 8) or JWK text; ValueError for anything but a private Ed25519 key."""
        return cls(_import(text))

    def pem(self) -> str:
        """The private key as PEM (PKCS 8), to be kept secret."""
        return bytes(self._key.as_pem(private=True)).decode()

    def sign(self, certificate: Certificate | AnswerCertificate) -> str:
        """The certificate as a JWS in compact serialisation."""
        return self._sign(certificate, TYPE)

    def sign_checkpoint(self, checkpoint: Checkpoint) -> str:
        """The checkpoint of a log as a JWS in compact serialisation."""
        return self._sign(checkpoint, CHECKPOINT_TYPE)

    def _sign(self, content: BaseModel, typ: str) -> str:
        header = {"alg": ALGORITHM, "kid": self.kid, "typ": typ}
        return str(jws.serialize_compact(header, content.model_dump_json(), self._key, registry=_REGISTRY))


def jwks(keys: Iterable[PublicKey]) -> dict[str, list[dict[str, str]]]:
    """The key set to publish (RFC 7517): the public halves of the signing key and of its predecessors."""
    return {"keys": list({key.kid: key.jwk() for key in keys}.values())}


def pinned(key_set: Mapping[str, Any], pins: Iterable[str]) -> dict[str, Any]:
    """The keys of a set that have these ids (RFC 7638 thumbprints), whatever the set calls them.

    Raises:
        UnknownKey: a key that is not in the set.
    """
    kept = [_find(key_set, pin) for pin in pins]
    return jwks(PublicKey(key) for key in kept)


def verify(text: str, key_set: Mapping[str, Any]) -> Signed:
    """Check a signed certificate offline.

    Args:
        text: JWS, compact serialisation.
        key_set: a JWKS, as published. Keys of other kinds in it are ignored.

    Raises:
        UnknownKey: the key that it names is not in the set.
        BadSignature: it is not a JWS, it uses another algorithm, or it is not what that key signed.
        WrongSchema: the signature is good, but the content is not a certificate of the version that goes with
            the algorithm.
    """
    algorithm, payload = _signed(text, key_set)
    return _parsed(_kind(algorithm, payload), payload, "certificate")


def content(text: str) -> dict[str, Any]:
    """What a JWS of our own holds. Its signature is not checked."""
    payload: dict[str, Any] = json.loads(jws.extract_compact(text.encode()).payload)
    return payload


def verify_checkpoint(text: str, key_set: Mapping[str, Any]) -> Checkpoint:
    """Check the signed checkpoint of a log; arguments and failures as of `verify`."""
    _, payload = _signed(text, key_set)
    return _parsed(Checkpoint, payload, "checkpoint")


def _signed(text: str, key_set: Mapping[str, Any]) -> tuple[str, bytes]:
    """The algorithm and the payload of a good signature."""
    try:
        parts = jws.extract_compact(text.strip().encode())
        kid, algorithm = parts.headers().get("kid"), parts.headers().get("alg")
    except (JoseError, ValueError) as error:
        raise BadSignature("This is not a signed certificate (JWS, compact serialisation).") from error
    key = _find(key_set, kid)
    try:
        matches = jws.validate_compact(parts, key, registry=_REGISTRY)
    except (JoseError, ValueError) as error:
        raise BadSignature(f"The signature cannot be checked: {error}.") from error
    if not matches:
        raise BadSignature(f"The signature does not match: the content is not what key {kid} signed.")
    return str(algorithm), parts.payload


def _parsed(kind: type[M], payload: bytes, name: str) -> M:
    try:
        return kind.model_validate_json(payload)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise WrongSchema(
            f"The signature is good, but this is no {name} of a version known here "
            f"({where or 'content'}: {error.errors()[0]['msg']})."
        ) from error


def _kind(
    algorithm: str, payload: bytes
) -> type[Certificate] | type[CertificateV1] | type[AnswerCertificate]:
    """What a payload should be: the algorithm goes with the version, `kind` tells answers from features."""
    if algorithm != ALGORITHM:
        return CertificateV1
    with contextlib.suppress(ValueError):
        value = json.loads(payload)
        if isinstance(value, dict) and value.get("kind") == "answer":
            return AnswerCertificate
    return Certificate


def _find(key_set: Mapping[str, Any], kid: object) -> OKPKey:
    """The Ed25519 key with that thumbprint. The names that the set gives its keys are ignored."""
    for entry in key_set.get("keys", []):
        if not isinstance(entry, Mapping) or entry.get("crv") != "Ed25519":
            continue
        with contextlib.suppress(ValueError):  # other keys still count if one entry is broken
            key = _import(json.dumps(dict(entry)))
            if key.thumbprint() == kid:
                return key
    raise UnknownKey(f"The key {kid} is not in the key set.")


def _import(text: str) -> OKPKey:
    text = text.strip()
    try:
        return OKPKey.import_key(json.loads(text) if text.startswith("{") else text)
    except (JoseError, ValueError, TypeError) as error:
        raise ValueError("not an Ed25519 key in PEM or JWK form") from error
