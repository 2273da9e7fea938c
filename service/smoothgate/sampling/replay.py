"""Draws the noise of a certificate again, sample by sample from its seed, and makes the statement anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from smoothgate.certify.certificate import Certificate
from smoothgate.certify.statement import Statement, Target, Terms
from smoothgate.certify.stopping import StoppingRule
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.sampling import noise
from smoothgate.sampling.job import scores_against, select
from smoothgate.vision import Canvas

_BATCH = 32


@dataclass(frozen=True, slots=True)
class Replay:
    """What the recorded noise gives on this machine."""

    selection_scores: list[float]
    certification_scores: list[float]
    statement: Statement


@torch.inference_mode()
def replay(encoder: UnitEncoder, canvas: Canvas, certificate: Certificate) -> Replay:
    """Repeat the sampling of a certificate.

    Args:
        encoder: of the model that the certificate names.
        canvas: of its image.
        certificate: with seed, sigma, numbers of samples and terms.

    Raises:
        ValueError: its noise is from a generator that is not known here.
    """
    recorded = certificate.noise
    x = canvas.x
    seed = int(recorded.seed, 16)
    generator = noise.named(recorded.generator)
    device = encoder.adapter.device

    def units(start: int, end: int) -> Iterator[Tensor]:
        for first in range(start, end, _BATCH):
            numbers = range(first, min(first + _BATCH, end))
            z = torch.empty((len(numbers), *x.shape))
            generator.fill(z, [(seed, index) for index in numbers])
            levels = torch.full((len(z),), recorded.sigma, device=device)
            yield encoder.units(z.mul_(recorded.sigma).add_(x).to(device), levels, canvas.layout)

    t, selection_scores = select(units(0, recorded.n_select))
    scores: list[float] = []
    for batch in units(recorded.n_select, recorded.n_select + recorded.n_certify):
        scores += scores_against(t, batch).tolist()
    rule = StoppingRule(_terms(certificate), selection_scores, recorded.budget)
    rule.update(scores)
    return Replay(selection_scores, scores, rule.statement())


def _terms(certificate: Certificate) -> Terms:
    wanted = certificate.target
    return Terms(
        sigma=certificate.noise.sigma,
        alpha=certificate.alpha,
        eps=tuple(bound.eps for bound in certificate.bounds),
        cosine_threshold=certificate.radius.cosine_threshold,
        chance_cosine=certificate.chance.p95,
        target=None if wanted is None else Target(wanted.cosine, wanted.eps),
    )
