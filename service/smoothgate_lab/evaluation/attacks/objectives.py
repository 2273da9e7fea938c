"""The losses of attacks in the literature: cross-entropy of answers, and distances to a target's features.

A feature is what the victim computes from a picture (`Victim.see`), centred as for certificates.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from smoothgate_lab.chat_models.answerer import Answerer
from smoothgate_lab.evaluation.attacks.pgd import Loss
from smoothgate_lab.evaluation.victims import SmoothedVictim, Victim

# M-Attack (Li et al. 2025, arXiv 2503.10635), section 3: local crops of the source. On the demo's small
# canvas the paper's areas of 0.5 to 0.9 make a weaker attack.
_CROP_AREA = (0.75, 1.0)
# FOA-Attack (Jia et al. 2025, arXiv 2505.21494): clusters of local features, entropic regularisation, and the
# weight of the local term.
_CLUSTERS = 5
_ENTROPY = 0.1
_SINKHORN_STEPS = 50
_LOCAL_WEIGHT = 0.2


def towards_answer(
    victim: Victim, answerer: Answerer, question: str, wanted: list[str], gen: torch.Generator
) -> Loss:
    """Targeted: the cross-entropy of the attacker's answers."""

    def loss(x: Tensor) -> Tensor:
        return answerer.cross_entropy(question, wanted, victim.see(x, gen).tokens)

    return loss


def away_from_answer(
    victim: Victim, answerer: Answerer, question: str, right: list[str], gen: torch.Generator
) -> Loss:
    """Untargeted: the negative cross-entropy of the right answers."""
    towards = towards_answer(victim, answerer, question, right, gen)
    return lambda x: -towards(x)


def away_from_vote(
    victim: SmoothedVictim, answerer: Answerer, question: str, given: list[str], gen: torch.Generator
) -> Loss:
    """SmoothAdv (Salman et al. 2019, equation 6): the log of the mean probability, over noisy copies, that a
    copy by itself is answered as given. A constant is left out.
    """
    wanted = [answer for answer in given for _ in range(victim.draws)]

    def loss(x: Tensor) -> Tensor:
        wrong = answerer.cross_entropy(question, wanted, victim.see_each(x, gen).tokens)
        return torch.logsumexp(-wrong.view(len(x), victim.draws), 1)

    return loss


def towards_feature(victim: Victim, target: Tensor, gen: torch.Generator) -> Loss:
    """Targeted feature matching (AttackVLM, Zhao et al. 2023): 1 - cos with the features of target pictures.

    Args:
        victim: the model under attack.
        target: (B, 3, H, W) target pictures.
        gen: generator of the noise.
    """
    with torch.no_grad():
        wanted = victim.see(target, gen).features
    return lambda x: 1 - (victim.see(x, gen).features * wanted).sum(1)


def towards_feature_by_crops(victim: Victim, target: Tensor, gen: torch.Generator) -> Loss:
    """M-Attack: `towards_feature` of random local crops of the picture, enlarged to its size."""
    with torch.no_grad():
        wanted = victim.see(target, gen).features

    def loss(x: Tensor) -> Tensor:
        return 1 - (victim.see(crop(x, gen), gen).features * wanted).sum(1)

    return loss


def crop(x: Tensor, gen: torch.Generator) -> Tensor:
    """A random square part of each picture (B, 3, H, W), enlarged to the picture's size. Differentiable."""
    count = len(x)
    low, high = _CROP_AREA
    side = (low + (high - low) * torch.rand(count, generator=gen)).sqrt()
    shift = (2 * torch.rand(count, 2, generator=gen) - 1) * (1 - side[:, None])
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = side
    theta[:, :, 2] = shift
    grid = F.affine_grid(theta.to(x), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def towards_feature_by_transport(victim: Victim, target: Tensor, width: int, gen: torch.Generator) -> Loss:
    """FOA-Attack: `towards_feature` plus the optimal transport between clusters of local features.

    Args:
        victim: the model under attack.
        target: (B, 3, H, W) target pictures.
        width: D, the width of one token.
        gen: generator of the noise.
    """
    with torch.no_grad():
        wanted = victim.see(target, gen).features
        wanted_clusters = clusters(wanted.view(len(target), -1, width))

    def loss(x: Tensor) -> Tensor:
        features = victim.see(x, gen).features
        local = clusters(features.view(len(x), -1, width))
        cost = 1 - F.normalize(local, dim=2) @ F.normalize(wanted_clusters, dim=2).mT
        whole = 1 - (features * wanted).sum(1)
        return whole + _LOCAL_WEIGHT * (transport_plan(cost) * cost).sum((1, 2))

    return loss


def clusters(tokens: Tensor, count: int = _CLUSTERS, rounds: int = 5) -> Tensor:
    """Centres (B, count, D) of k-means over tokens (B, T, D), from a start at evenly spaced tokens.

    Differentiable in the tokens for fixed clusters.
    """
    with torch.no_grad():
        start = torch.linspace(0, tokens.shape[1] - 1, count, device=tokens.device).round().long()
        centres = tokens[:, start]
        for _ in range(rounds):
            belongs = F.one_hot(torch.cdist(tokens, centres).argmin(2), count).to(tokens)
            centres = _means(belongs, tokens, centres)
    return _means(belongs, tokens, centres)


def _means(belongs: Tensor, tokens: Tensor, otherwise: Tensor) -> Tensor:
    sizes = belongs.sum(1)[..., None]
    return torch.where(sizes > 0, belongs.mT @ tokens / sizes.clamp(min=1), otherwise)


@torch.no_grad()
def transport_plan(cost: Tensor) -> Tensor:
    """The entropic transport plan (B, K, L) between uniform weights for costs (B, K, L) (Cuturi 2013)."""
    kernel = -cost / _ENTROPY
    rows, columns = cost.shape[1:]
    u = torch.zeros_like(cost[:, :, :1])
    v = torch.zeros_like(cost[:, :1])
    for _ in range(_SINKHORN_STEPS):
        u = -torch.logsumexp(kernel + v, 2, keepdim=True) - math.log(rows)
        v = -torch.logsumexp(kernel + u, 1, keepdim=True) - math.log(columns)
    return (kernel + u + v).exp()
