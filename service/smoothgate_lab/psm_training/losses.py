"""The losses of the paper (section 4) and one of ours, all on noisy canvases of one batch.

`rb` asks for the clean feature, which is what the answers need; `consistency`, our extension, asks two
noises of one picture to agree, which is what the certificate measures (the score s is taken against the
mean of the noisy features, not against the clean one). Alone it would be met by a constant; beside `rb` it
only decides how much of what the noise leaves uncertain is shown to the language model.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def diffusion(purified: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """l_diff: squared error of the noise that (z - P(z)) / sigma claims, for canvases (B, 3, H, W), sigma
    (B,).

    Weighted as in EDM (Karras et al. 2022, section 5), so that it stays finite as sigma goes to 0.
    """
    weight = 1 / sigma.square().clamp(min=1e-4) + 1 / 0.3**2
    return (weight * (purified - x).square().flatten(1).mean(1)).mean()


def mse(purified: Tensor, x: Tensor) -> Tensor:
    """l_mse: squared error of the canvases (B, 3, H, W), summed over the pixels."""
    return (purified - x).square().flatten(1).sum(1).mean()


def rb(units: Tensor, clean: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """l_rb = 1 - cos of unit features (B, T * D) with the clean ones; weight: (B,), of each."""
    return (weight * (1 - (units * clean).sum(1))).mean()


def consistency(units: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """1 - cos of the unit features (2 B, T * D) of two noises: of row i with row B + i; weight: (B,)."""
    first, second = units.chunk(2)
    return (weight * (1 - (first * second).sum(1))).mean()


def joint_fidelity(sigma: Tensor) -> Tensor:
    """Weight of `rb` at sigma (B,): 1 from 0.5 on, up to 2 below.

    Little noise leaves details that are worth keeping, and small errors, which larger ones would drown.
    """
    return (0.5 / sigma.clamp(min=0.25)).clamp(min=1.0)


def joint_steadiness(sigma: Tensor) -> Tensor:
    """Weight of `consistency` at sigma (B,): 1 from 0.5 on, falling as sigma^2 below."""
    return (2 * sigma).square().clamp(max=1.0)


def served_fidelity(sigma: Tensor) -> Tensor:
    """Weight of `rb` at sigma (B,) where the mean of the samples is to be right: 1 from 0.5 on, up to 6 at
    0.25 and below.
    """
    return (11 - 20 * sigma).clamp(1.0, 6.0)


def served_steadiness(sigma: Tensor) -> Tensor:
    """Weight of `consistency` at sigma (B,) where the mean of the samples is to be right, not each sample: 1
    from 0.5 on, down to -2.25 at 0.25 and below.

    In expectation 2 rb - consistency is the squared distance of the mean feature from the clean one, and rb
    alone is half of that and half of the variance. So with these weights little noise has three quarters of
    its variance given away for a mean that shows faint details at their full strength: each sample for itself
    would rather show them weaker.
    """
    return (13 * sigma - 5.5).clamp(-2.25, 1.0)


def detail(units: Tensor, clean: Tensor, whitening: Tensor, weight: Tensor) -> Tensor:
    """Squared distance of the mean feature from the clean one, in directions of equal weight.

    A faint texture moves the feature little, and `rb` hardly sees it, but the language model reads it. So
    here every direction that clean tokens take counts by its own spread. As in `served_steadiness`, three
    quarters of the variance are given away: the product of the errors of two noises is the bias alone.

    Args:
        units: (2 B, T * D), two noises of B pictures.
        clean: the same without noise.
        whitening: (D, D), from a unit feature's channels to directions of spread 1.
        weight: (B,), of each picture.
    """
    error = (units - clean).view(len(units), -1, len(whitening)) @ whitening
    first, second = error.chunk(2)
    variance_too = (first.square() + second.square()) / 2
    return (weight * (0.75 * first * second + 0.25 * variance_too).mean((1, 2))).mean()


def detail_weight(sigma: Tensor) -> Tensor:
    """Weight of `detail` at sigma (B,): 1 up to 0.25, none from 0.5 on."""
    return (2 - 4 * sigma).clamp(0.0, 1.0)


def whitening(batches: Iterable[Tensor], width: int) -> Tensor:
    """(D, D): principal directions of the channels of clean unit features, each over its spread.

    Args:
        batches: clean unit features (N, T * D) each, of some hundred pictures in all.
        width: D.
    """
    moments = [(t.T @ t).double() / len(t) for t in (units.view(-1, width) for units in batches)]
    spread: Tensor
    directions: Tensor
    spread, directions = torch.linalg.eigh(torch.stack(moments).mean(0))
    # Directions that hardly anything goes into are rounding, not detail.
    return (directions / (spread + 0.01 * spread.mean()).sqrt()).float()


def statistics(tokens: Tensor, clean: Tensor, std: Tensor) -> Tensor:
    """l_stats: mean and standard deviation of each channel over the tokens of a picture, (B, T, D) each, as
    clean.

    Args:
        tokens: mapped.
        clean: of the same pictures without noise.
        std: (D,), the unit of each channel.
    """
    mean = F.mse_loss(tokens.mean(1) / std, clean.mean(1) / std)
    return mean + F.mse_loss(tokens.std(1) / std, clean.std(1) / std)


def identity(mapped: Tensor, clean: Tensor, std: Tensor) -> Tensor:
    """l_id: clean tokens (B, T, D), mapped at a sigma near 0, stay as they are."""
    return F.mse_loss(mapped / std, clean / std)
