import base64
import json
from typing import Any

import pytest
from joserfc.jwk import OKPKey

from smoothgate.certify.signing import (
    BadSignature,
    CertificateRejected,
    PublicKey,
    SigningKey,
    UnknownKey,
    WrongSchema,
    jwks,
    verify,
)

from .certificates import certificate
from .version_1_vectors import keys, vector

KEY = SigningKey.generate()
TEXT = KEY.sign(certificate())


def encoded(data: object) -> str:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decoded(part: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def signed(header: dict[str, str], payload: object) -> str:
    """What the holder of KEY could sign without this package."""
    head = f"{encoded(header)}.{encoded(payload)}"
    private = OKPKey.import_key(KEY.pem()).private_key
    return f"{head}.{encoded(private.sign(head.encode()))}"


def test_a_signed_certificate_is_verified() -> None:
    assert verify(TEXT, jwks([KEY])) == certificate()
    assert verify(f"\n{TEXT}\n", json.loads(json.dumps(jwks([KEY])))) == certificate()
    assert decoded(TEXT.split(".")[0]) == {
        "alg": "Ed25519",
        "kid": KEY.kid,
        "typ": "smoothgate-certificate+jws",
    }


def test_every_change_of_the_content_is_caught() -> None:
    header, payload, signature = TEXT.split(".")
    data = decoded(payload)
    for path, value in (("alpha", 1e-9), ("score_lower", 0.99), ("outcome", "vacuous")):
        forged = f"{header}.{encoded(data | {path: value})}.{signature}"
        with pytest.raises(BadSignature, match="does not match"):
            verify(forged, jwks([KEY]))


@pytest.mark.parametrize("position", range(5, len(TEXT) - 5, 997))
def test_a_changed_character_is_never_accepted(position: int) -> None:
    other = "A" if TEXT[position] != "A" else "B"
    with pytest.raises((BadSignature, UnknownKey)):
        verify(TEXT[:position] + other + TEXT[position + 1 :], jwks([KEY]))


@pytest.mark.parametrize("text", ["", "no", "a.b", "a.b.c", "..", TEXT + ".x", TEXT.rsplit(".", 1)[0] + "."])
def test_text_that_is_not_a_jws_is_refused(text: str) -> None:
    with pytest.raises(BadSignature):
        verify(text, jwks([KEY]))


def test_an_unknown_key_is_named() -> None:
    other = SigningKey.generate()
    key_sets: tuple[dict[str, Any], ...] = (
        {},
        {"keys": []},
        jwks([other]),
        {"keys": ["x", {"kty": "RSA"}, {"crv": "Ed25519", "x": "?"}]},
    )
    for key_set in key_sets:
        with pytest.raises(UnknownKey, match=KEY.kid):
            verify(TEXT, key_set)


def test_a_key_under_the_name_of_another_is_unknown() -> None:
    other = SigningKey.generate()
    with pytest.raises(UnknownKey):
        verify(TEXT, {"keys": [other.jwk() | {"kid": KEY.kid}]})


@pytest.mark.parametrize("algorithm", ["none", "HS256", "ES256", "Ed448"])
def test_other_algorithms_are_refused(algorithm: str) -> None:
    forged = signed({"alg": algorithm, "kid": KEY.kid}, decoded(TEXT.split(".")[1]))
    with pytest.raises(BadSignature):
        verify(forged, jwks([KEY]))


def test_a_good_signature_over_something_else_is_the_wrong_schema() -> None:
    data = decoded(TEXT.split(".")[1])
    header = {"alg": "Ed25519", "kid": KEY.kid}
    payloads: tuple[object, ...] = (
        {},
        data | {"version": 1},
        data | {"version": 3},
        data | {"extra": 1},
        b"not json",
    )
    for payload in payloads:
        with pytest.raises(WrongSchema):
            verify(signed(header, payload), jwks([KEY]))
    assert verify(signed(header, data), jwks([KEY])) == certificate()


def test_each_version_goes_with_one_name_of_the_algorithm() -> None:
    data = decoded(TEXT.split(".")[1])
    with pytest.raises(WrongSchema):
        verify(signed({"alg": "EdDSA", "kid": KEY.kid}, data), jwks([KEY]))
    then = vector("bounded")
    assert decoded(then.jws.split(".")[0])["alg"] == "EdDSA"
    assert verify(then.jws, keys()).version == 1
    with pytest.raises(WrongSchema):
        verify(signed({"alg": "Ed25519", "kid": KEY.kid}, then.shown), jwks([KEY]))


def test_rotation_keeps_old_certificates_verifiable() -> None:
    new = SigningKey.generate()
    published = jwks([new, PublicKey.load(KEY.pem())])
    assert [entry["kid"] for entry in published["keys"]] == [new.kid, KEY.kid]
    assert verify(TEXT, published) == verify(new.sign(certificate()), published)
    with pytest.raises(UnknownKey):
        verify(TEXT, jwks([new]))
    assert jwks([new, new]) == jwks([new])


def test_only_public_halves_are_published() -> None:
    assert set(KEY.jwk()) == {"kty", "crv", "x", "kid", "use"}
    assert '"d"' not in json.dumps(jwks([KEY, PublicKey.load(KEY.pem())]))
    secret = OKPKey.import_key(KEY.pem()).as_dict(private=True)["d"]
    assert secret not in repr(KEY) + str(vars(KEY))


def test_keys_are_loaded_from_pem_and_jwk() -> None:
    as_jwk = json.dumps(OKPKey.import_key(KEY.pem()).as_dict(private=True))
    for text in (KEY.pem(), as_jwk, f"\n{KEY.pem()}\n"):
        assert SigningKey.load(text).kid == KEY.kid
    assert PublicKey.load(json.dumps(KEY.jwk())).kid == KEY.kid
    assert SigningKey.load(KEY.pem()).sign(certificate()) == TEXT


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not a key",
        "{}",
        "{broken",
        '{"kty":"oct","k":"c2VjcmV0"}',
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
        json.dumps(KEY.jwk()),
        json.dumps(OKPKey.generate_key("X25519").as_dict(private=True)),
    ],
)
def test_a_text_that_is_no_signing_key_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ValueError, match="key") as caught:
        SigningKey.load(text)
    assert not text or text not in str(caught.value)


def test_every_rejection_has_a_code() -> None:
    for kind in (BadSignature, UnknownKey, WrongSchema):
        assert issubclass(kind, CertificateRejected)
    assert {kind.code for kind in (BadSignature, UnknownKey, WrongSchema)} == {
        "bad_signature",
        "unknown_key",
        "wrong_schema",
    }
