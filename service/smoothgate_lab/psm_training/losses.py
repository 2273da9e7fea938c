"""The losses of the paper (section 4) and our own, on noisy canvases of one batch.

`rb` rewards the clean feature, which the answers need. `consistency`, our extension, rewards agreement
between two noises of one picture, which the certificate measures: the score s is taken against the mean
of the noisy features, not against the clean one. A constant feature would minimise `consistency` alone.
Together with `rb`, it decides how much of what the noise leaves uncertain is shown to the language model.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def diffusion(purified: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """l_diff: squared error of the estimated noise (z - P(z)) / sigma for canvases (B, 3, H, W), sigma (B,).

    It is weighted as in EDM (Karras et al. 2022, section 5), so that it stays finite as sigma goes to 0.
    """
    weight = 1 / sigma.square().clamp(min=1e-4) + 1 / 0.3**2
    return (weight * (purified - x).square().flatten(1).mean(1)).mean()


def mse(purified: Tensor, x: Tensor) -> Tensor:
    """l_mse: squared error of canvases (B, 3, H, W), summed over the pixels."""
    return (purified - x).square().flatten(1).sum(1).mean()


def rb(units: Tensor, clean: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """l_rb = 1 - cos of unit features (B, T * D) with the clean ones, with weights (B,)."""
    return (weight * (1 - (units * clean).sum(1))).mean()


def consistency(units: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """1 - cos of unit features (2 B, T * D) under two noises, of row i with row B + i, with weights (B,)."""
    first, second = units.chunk(2)
    return (weight * (1 - (first * second).sum(1))).mean()


def joint_fidelity(sigma: Tensor) -> Tensor:
    """Weight of `rb` at sigma (B,): 1 from 0.5 on, and up to 2 below.

    Little noise leaves details that are worth keeping. Its errors are small, so larger ones would
    dominate them.
    """
    return (0.5 / sigma.clamp(min=0.25)).clamp(min=1.0)


def joint_steadiness(sigma: Tensor) -> Tensor:
    """Weight of `consistency` at sigma (B,): 1 from 0.5 on, and proportional to sigma^2 below."""
    return (2 * sigma).square().clamp(max=1.0)


def served_fidelity(sigma: Tensor) -> Tensor:
    """Weight of `rb` at sigma (B,) to make the mean of the samples right: 1 from 0.5 on, 6 up to 0.25."""
    return (11 - 20 * sigma).clamp(1.0, 6.0)


def served_steadiness(sigma: Tensor) -> Tensor:
    """Weight of `consistency` at sigma (B,) to make the mean right: 1 from 0.5 on, and -2.25 up to 0.25.

    In expectation, 2 rb - consistency is the squared distance of the mean feature from the clean one, and
    rb is half of that plus half of the variance. At little noise, these weights therefore ignore three
    quarters of the variance, so that the mean shows faint details at their full strength. Losses on
    single samples make them weaker.
    """
    return (13 * sigma - 5.5).clamp(-2.25, 1.0)


def detail(units: Tensor, clean: Tensor, whitening: Tensor, weight: Tensor) -> Tensor:
    """Squared distance of the mean feature from the clean one, in directions of equal weight.

    A faint texture moves the feature little, so `rb` hardly sees it, but the language model reads it.
    This loss therefore divides each direction of clean tokens by its spread. As in `served_steadiness`,
    it ignores three
    quarters of the variance: the product of the errors of two noises holds only the bias.

    Args:
        units: (2 B, T * D) under two noises of B pictures.
        clean: (2 B, T * D) without noise.
        whitening: (D, D), from a unit feature's channels to directions of spread 1.
        weight: (B,) weights of the pictures.
    """
    error = (units - clean).view(len(units), -1, len(whitening)) @ whitening
    first, second = error.chunk(2)
    variance_too = (first.square() + second.square()) / 2
    return (weight * (0.75 * first * second + 0.25 * variance_too).mean((1, 2))).mean()


def detail_weight(sigma: Tensor) -> Tensor:
    """Weight of `detail` at sigma (B,): 1 up to 0.25, and 0 from 0.5 on."""
    return (2 - 4 * sigma).clamp(0.0, 1.0)


def whitening(batches: Iterable[Tensor], width: int) -> Tensor:
    """(D, D): principal directions of the channels of clean unit features, each divided by its spread.

    Args:
        batches: batches of clean unit features (N, T * D), of some hundred pictures together.
        width: D.
    """
    moments = [(t.T @ t).double() / len(t) for t in (units.view(-1, width) for units in batches)]
    spread: Tensor
    directions: Tensor
    spread, directions = torch.linalg.eigh(torch.stack(moments).mean(0))
    # Directions of nearly no spread hold rounding errors, not detail.
    return (directions / (spread + 0.01 * spread.mean()).sqrt()).float()


def statistics(tokens: Tensor, clean: Tensor, std: Tensor) -> Tensor:
    """l_stats: squared error of each channel's mean and standard deviation over the tokens of a picture.

    Args:
        tokens: (B, T, D) from the mapper.
        clean: (B, T, D) of the same pictures without noise.
        std: (D,), the unit of each channel.
    """
    mean = F.mse_loss(tokens.mean(1) / std, clean.mean(1) / std)
    return mean + F.mse_loss(tokens.std(1) / std, clean.std(1) / std)


def identity(mapped: Tensor, clean: Tensor, std: Tensor) -> Tensor:
    """l_id: squared error of clean tokens (B, T, D) that are mapped at a sigma near 0."""
    return F.mse_loss(mapped / std, clean / std)
