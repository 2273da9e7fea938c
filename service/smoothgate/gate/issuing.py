"""Signs certificates, and keeps them where the operator wants it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog

from smoothgate import metrics
from smoothgate.certify.certificate import Certificate
from smoothgate.certify.signing import PublicKey, SigningKey, jwks
from smoothgate.errors import SmoothgateError
from smoothgate.gate.certificate_store import CertificateStore
from smoothgate.gate.schemas import IssuedCertificate
from smoothgate.settings import Settings

log = structlog.get_logger("certificates")


class Issuer:
    """The signing key, its predecessors' public halves, and the store.

    Raises:
        SmoothgateError: code `bad_key`: a key file cannot be read or holds no Ed25519 key.
    """

    def __init__(self, settings: Settings) -> None:
        if settings.signing_key_file is None:
            self._key = SigningKey.generate()
            log.warning(
                "certificates are signed with a key made for this start; "
                "set SMOOTHGATE_SIGNING_KEY_FILE so that they can be checked after it",
                kid=self._key.kid,
            )
        else:
            self._key = SigningKey.load(_read(settings.signing_key_file, SigningKey))
        retired = [PublicKey.load(_read(Path(path), PublicKey)) for path in settings.retired_keys]
        self.key_set: dict[str, Any] = jwks([self._key, *retired])
        self._store = None
        if settings.store is not None:
            self._store = CertificateStore(
                settings.store, max_bytes=settings.store_max_bytes, files=settings.store_files
            )

    async def issue(
        self, certificate: Certificate, selection: Sequence[float], certification: Sequence[float]
    ) -> IssuedCertificate:
        """Sign and keep. A store that fails is logged and counted, and the certificate goes out."""
        jws = self._key.sign(certificate)
        if self._store is not None:
            try:
                await asyncio.to_thread(self._store.append, jws, selection, certification)
            except OSError as error:
                metrics.STORE_FAILURES.inc()
                log.error("a certificate could not be kept", reason=str(error))
        return IssuedCertificate(**dict(certificate), jws=jws)


def _read(path: Path, kind: type[PublicKey]) -> str:
    try:
        text = path.read_text()
        kind.load(text)
    except (OSError, ValueError) as error:
        raise SmoothgateError(f"The key file {path} cannot be used: {error}.", code="bad_key") from error
    return text
