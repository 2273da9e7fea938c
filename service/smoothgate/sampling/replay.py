"""Draws the noise of a certificate again from its seed, and computes the statement again."""

from __future__ import annotations

from smoothgate.certify.certificate import Certificate
from smoothgate.certify.statement import Statement, Target, Terms
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.sampling import noise
from smoothgate.sampling.draw import numbered_noise
from smoothgate.sampling.splits import draw_splits
from smoothgate.vision import Canvas

_BATCH = 32


def replay(encoder: UnitEncoder, canvas: Canvas, certificate: Certificate) -> Statement:
    """The statement that the recorded noise of a certificate gives on this machine.

    Args:
        encoder: of the model that the certificate names.
        canvas: of its image.
        certificate: gives seed, sigma, numbers of samples and terms.

    Raises:
        ValueError: the certificate's noise comes from an unknown generator.
    """
    recorded = certificate.noise
    splits = draw_splits(
        encoder.units,
        canvas.x.to(encoder.adapter.device),
        recorded.sigma,
        numbered_noise(noise.generator_named(recorded.generator), int(recorded.seed, 16)),
        recorded.n_select,
        recorded.n_certify,
        batch=_BATCH,
        layout=canvas.layout,
    )
    return splits.statement(_terms(certificate), recorded.budget)


def _terms(certificate: Certificate) -> Terms:
    wanted = certificate.target
    return Terms(
        sigma=certificate.noise.sigma,
        alpha=certificate.alpha,
        eps=tuple(bound.eps for bound in certificate.bounds),
        cosine_threshold=certificate.radius.cosine_threshold,
        chance_cosine=certificate.chance.p95,
        target=None if wanted is None else Target(wanted.cosine, wanted.eps),
        cosines=tuple(each.cosine for each in certificate.angular),
    )
