"""The seed of a picture's noise, which follows from the picture and a secret alone.

No term of a request enters it (n_select, n_certify, alpha, eps, sigma, target, other pictures). So a picture
has one sequence of noise, on every replica with the same secret and at every time. Asking again on other
terms draws no new noise, and nobody without the secret knows the noise in advance.

The canvas stands for the picture. Replicas agree where they compute the same canvas bit by bit, as the same
release does on processors of one kind.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from torch import Tensor

from smoothgate.sampling.noise import SEED_BITS
from smoothgate.vision import Layout

#: Fewest bytes of a secret.
SECRET_BYTES = 32

# They keep apart what is made of one secret, and later versions of it.
_SEED_LABEL = b"smoothgate noise seed v1\0"
_SECRET_LABEL = b"smoothgate noise secret v1\0"


class NoiseSeeds:
    """Derives seeds: the first 128 bits of HMAC-SHA256(secret, label, canvas, encoder, copy).

    Args:
        secret: at least 32 bytes that nobody can guess. All replicas of a service share it.

    Attributes:
        secret_digest: SHA-256 of a label and the secret, hexadecimal. It commits to the secret.

    Raises:
        ValueError: the secret is too short.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) < SECRET_BYTES:
            raise ValueError(f"it holds {len(secret)} bytes, at least {SECRET_BYTES} are needed")
        self._secret = secret
        self.secret_digest = hashlib.sha256(_SECRET_LABEL + secret).hexdigest()

    @classmethod
    def generate(cls) -> NoiseSeeds:
        """With a secret from the operating system's entropy."""
        return cls(secrets.token_bytes(SECRET_BYTES))

    def seed(self, canvas_digest: bytes, encoder_digest: str, copy: int) -> int:
        """The seed of a picture, in [0, 2^128).

        Args:
            canvas_digest: as `canvas_digest` gives it.
            encoder_digest: SHA-256 of the encoder, hexadecimal.
            copy: number of earlier pictures of the same request with the same canvas. Each copy needs noise
                of its own, because statements about several pictures at once take their noise as independent.
        """
        message = _SEED_LABEL + canvas_digest + bytes.fromhex(encoder_digest) + copy.to_bytes(8, "big")
        return int.from_bytes(hmac.digest(self._secret, message, "sha256")[: SEED_BITS // 8], "big")


def canvas_digest(x: Tensor, layout: Layout) -> bytes:
    """SHA-256 of a canvas (3, H, W) float32 on the CPU: its shape, its layout and its pixels."""
    form = repr((tuple(x.shape), tuple(layout))).encode()
    return hashlib.sha256(form + b"\0" + x.contiguous().numpy().tobytes()).digest()
