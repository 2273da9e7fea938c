"""Certificates as they are handed out: signed, and kept where the operator wants it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog

from smoothgate import metrics, tracing
from smoothgate.certify.certificate import Binding, Certificate
from smoothgate.certify.signing import PublicKey, SigningKey, jwks
from smoothgate.errors import SmoothgateError
from smoothgate.gate.certificate_store import CertificateStore
from smoothgate.off_loop import off_loop
from smoothgate.sampling.smoother import Smoothed
from smoothgate.schemas import IssuedCertificate

log = structlog.get_logger("certificates")


class Issuer:
    """The signing key, the public halves of its predecessors, and the store.

    Args:
        signing_key_file: Ed25519 private key; None: generates a new key.
        retired_keys: files of further public keys to publish.
        store: None: certificates are not kept.

    Raises:
        SmoothgateError: code `bad_key`: a key file cannot be read or holds no Ed25519 key.
    """

    def __init__(
        self, signing_key_file: Path | None, retired_keys: Sequence[str], store: CertificateStore | None
    ) -> None:
        if signing_key_file is None:
            self._key = SigningKey.generate()
            log.warning(
                "certificates are signed with a key generated at this start; "
                "set SMOOTHGATE_SIGNING_KEY_FILE so that they can be checked after it",
                kid=self._key.kid,
            )
        else:
            self._key = SigningKey.load(_read(signing_key_file, SigningKey))
        retired = [PublicKey.load(_read(Path(path), PublicKey)) for path in retired_keys]
        self.key_set: dict[str, Any] = jwks([self._key, *retired])
        self._store = store

    async def issue(
        self, images: Sequence[Smoothed], certificates: Sequence[Certificate], binding: Binding
    ) -> list[IssuedCertificate]:
        """The certificates of images (`certificates_of`), bound and signed.

        A store that fails is logged and counted, and the certificate goes out.
        """
        return [
            await self._issue(image, certificate.bound_to(binding))
            for image, certificate in zip(images, certificates, strict=True)
        ]

    async def _issue(self, image: Smoothed, certificate: Certificate) -> IssuedCertificate:
        jws = self._key.sign(certificate)
        if self._store is not None:
            try:
                await off_loop(self._store.append, jws, *image.scores())
            except OSError as error:
                metrics.STORE_FAILURES.inc()
                log.error("a certificate could not be kept", reason=str(error))
        return IssuedCertificate(**dict(certificate), jws=jws)


async def certificates_of(images: Sequence[Smoothed]) -> list[Certificate]:
    """One certificate per image, once all sampling has ended; neither bound nor signed yet.

    Raises:
        SamplerFailed, NotReady: the sampler failed or is being shut down.
        Unacceptable: the noisy features of an image have no common direction.
    """
    with tracing.stage("certify"):
        return [await image.certificate() for image in images]


def _read(path: Path, kind: type[PublicKey]) -> str:
    try:
        text = path.read_text()
        kind.load(text)
    except (OSError, ValueError) as error:
        raise SmoothgateError(f"The key file {path} cannot be used: {error}.", code="bad_key") from error
    return text
