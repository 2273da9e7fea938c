"""Draws the noise of a certificate again, sample by sample from its seed, and makes the statement anew."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from service.certify.certificate import Certificate
from service.certify.statement import Statement, Target, Terms
from service.certify.stopping import StoppingRule
from service.psm.encoder import UnitEncoder
from service.smoothing import noise
from service.smoothing.sampler import Selection, scores_against

_BATCH = 32


@dataclass(frozen=True, slots=True)
class Replay:
    """What the recorded noise gives on this machine."""

    selection_scores: list[float]
    certification_scores: list[float]
    statement: Statement


@torch.inference_mode()
def replay(encoder: UnitEncoder, x: Tensor, certificate: Certificate) -> Replay:
    """Repeat the sampling of a certificate.

    Args:
        encoder: of the model that the certificate names.
        x: (3, H, W) float32, the canvas of its image.
        certificate: with seed, sigma, numbers of samples and terms.
    """
    recorded = certificate.noise
    seed = int(recorded.seed, 16)

    def units(first: int, last: int) -> Tensor:
        z = np.empty((last - first, *x.shape), dtype=np.float32)
        for row, index in enumerate(range(first, last)):
            noise.draw_into(z[row], seed, index)
        device = encoder.adapter.device
        levels = torch.full((len(z),), recorded.sigma, device=device)
        return encoder.units((torch.from_numpy(z) * recorded.sigma + x).to(device), levels)

    selection = Selection(recorded.n_select)
    for first in range(0, recorded.n_select, _BATCH):
        selection.take(units(first, min(first + _BATCH, recorded.n_select)))
    t = selection.direction()
    end = recorded.n_select + recorded.n_certify
    scores: list[float] = []
    for first in range(recorded.n_select, end, _BATCH):
        scores += scores_against(t, units(first, min(first + _BATCH, end))).tolist()
    rule = StoppingRule(_terms(certificate), selection.scores, recorded.budget)
    rule.update(scores)
    return Replay(selection.scores, scores, rule.statement())


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
