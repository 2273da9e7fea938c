"""Feature-space attacks for adversarial fine-tuning of purifier and mapper. They are our extension."""

from __future__ import annotations

import torch
from torch import Tensor

from smoothgate.sampling.draw import Units
from smoothgate_lab.psm_training.attacks_through_noise import attack

_SHARE_AWAY = 0.4
_SHARE_NEIGHBOUR = 0.4  # the rest is pushed towards the most similar picture


def perturb(
    units: Units,
    x: Tensor,
    sigma: Tensor,
    clean: Tensor,
    gen: torch.Generator,
    steps: int = 3,
) -> Tensor:
    """Push pictures away from their clean feature, or towards that of a neighbour or most similar picture.

    Neighbours are rows 0 and 1, 2 and 3 and so on. A stream with pairs of pictures to tell apart puts them
    there. Norms and radii, and which pictures stay clean, are those of `attack`.

    Args:
        units: noisy canvases and sigma -> unit features, differentiable.
        x: (B, 3, H, W) in [0, 1].
        sigma: (B,) noise levels.
        clean: (B, T * D) unit features without noise.
        gen: generator of aims, norms, radii and noise.
        steps: number of steps of PGD.

    Returns:
        (B, 3, H, W): x plus perturbations within their radii.
    """
    choice = torch.rand(len(x), 1, generator=gen).to(x)
    likeness = (clean @ clean.T).fill_diagonal_(-torch.inf)
    neighbour = (torch.arange(len(x), device=x.device) ^ 1).clamp(max=len(x) - 1)
    other = torch.where(choice < _SHARE_AWAY + _SHARE_NEIGHBOUR, clean[neighbour], clean[likeness.argmax(1)])
    aim = torch.where(choice < _SHARE_AWAY, -clean, other)

    def gain(z: Tensor, levels: Tensor, rows: Tensor) -> Tensor:
        return (units(z, levels) * aim[rows].repeat(2, 1)).sum()

    return attack(gain, x, sigma, gen, steps)
