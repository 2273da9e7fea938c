"""A certificate to test with."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
from joserfc.jwk import OKPKey

from smoothgate.certify.certificate import Certificate, CertifiedImage, CertifiedModel, Chance, NoiseRecord
from smoothgate.certify.signing import ALGORITHM, SigningKey
from smoothgate.certify.statement import Statement, Target, Terms, certify


def statement(
    shape: tuple[float, float] = (194, 6),
    target: Target | None = None,
    chance_cosine: float | None = 0.1,
) -> Statement:
    rng = np.random.default_rng(0)
    terms = Terms(sigma=0.5, alpha=0.001, eps=(0.25, 0.5), chance_cosine=chance_cosine, target=target)
    return certify(terms, rng.beta(*shape, 31), rng.beta(*shape, 256))


def parts(**changes: Any) -> dict[str, Any]:
    given = {
        "stop_reason": "budget",
        "time": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "image": CertifiedImage(
            sha256="ab" * 32,
            width=640,
            height=480,
            canvas_width=48,
            canvas_height=48,
            resize_norm=0.25,
            upload_space="decoded RGB",
            upload_reason=None,
        ),
        "model": CertifiedModel(
            name="demo", digest="cd" * 32, psm_digest=None, dtype="float32", language_model_digest=None
        ),
        "noise": NoiseRecord(
            sigma=0.5, generator="philox", seed="0f" * 16, n_select=32, n_certify=256, budget=256
        ),
        "chance": Chance(mean=0.0, p95=0.1, pairs=300),
        "served_tokens_sha256": "ef" * 32,
    }
    return given | changes


def certificate(**changes: Any) -> Certificate:
    return Certificate.of(changes.pop("statement", statement()), **parts(**changes))


def sign_anything(key: SigningKey, payload: Any) -> str:
    """What the holder of a key could sign without this package."""

    def encoded(raw: bytes) -> str:
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    header = {"alg": ALGORITHM, "kid": key.kid}
    head = ".".join(encoded(json.dumps(part).encode()) for part in (header, payload))
    private = OKPKey.import_key(key.pem()).private_key
    return f"{head}.{encoded(private.sign(head.encode()))}"
