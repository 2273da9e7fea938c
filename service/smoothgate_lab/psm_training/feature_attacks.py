"""Feature-space attacks for adversarial fine-tuning of purifier and mapper. They are our extension."""

from __future__ import annotations

import torch
from torch import Tensor

from smoothgate.sampling.draw import Units
from smoothgate_lab.psm_training.noise_pairs import noise_pairs

L_INF = (4 / 255, 20 / 255)
L2 = (0.3, 2.5)
SHARE_L_INF = 0.65
SHARE_CLEAN = 0.3
_SHARE_AWAY = 0.4
_SHARE_NEIGHBOUR = 0.4  # the rest is pushed towards the most similar picture
# Less noise cannot hide an attack of these radii, and learning to resist it costs faint details.
LEAST_SIGMA = 0.4


def perturb(
    units: Units,
    x: Tensor,
    sigma: Tensor,
    clean: Tensor,
    gen: torch.Generator,
    steps: int = 3,
) -> Tensor:
    """Push pictures away from their clean feature, or towards that of a neighbour or most similar picture.

    The attack is PGD through two new noises with steps of 1.6 / `steps` of the radius. Neighbours are rows 0
    and 1, 2 and 3 and so on. A stream with pairs of pictures to tell apart puts them there.

    Each picture gets its own aim, norm and radius: l_inf 4/255 to 20/255 or l2 0.3 to 2.5. Three in ten
    pictures stay clean, and so do all with noise below 0.4.

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
    shape = (len(x), 1, 1, 1)

    def uniform(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(shape, generator=gen)).to(x)

    is_inf = uniform(0, 1) < SHARE_L_INF
    radius = torch.where(is_inf, uniform(*L_INF), uniform(*L2)) * (uniform(0, 1) > SHARE_CLEAN)
    choice = uniform(0, 1).flatten(1)
    start = torch.randn(x.shape, generator=gen).to(x) / x[0].numel() ** 0.5
    likeness = (clean @ clean.T).fill_diagonal_(-torch.inf)
    neighbour = (torch.arange(len(x), device=x.device) ^ 1).clamp(max=len(x) - 1)
    other = torch.where(choice < _SHARE_AWAY + _SHARE_NEIGHBOUR, clean[neighbour], clean[likeness.argmax(1)])
    aim = torch.where(choice < _SHARE_AWAY, -clean, other)

    chosen = (sigma >= LEAST_SIGMA) & (radius.flatten() > 0)
    if not chosen.any():
        return x
    perturbed = x.clone()
    perturbed[chosen] += _ascend(
        units,
        x[chosen],
        sigma[chosen],
        aim[chosen],
        is_inf[chosen],
        radius[chosen],
        start[chosen],
        gen,
        steps,
    )
    return perturbed


def _ascend(
    units: Units,
    x: Tensor,
    sigma: Tensor,
    aim: Tensor,
    is_inf: Tensor,
    radius: Tensor,
    start: Tensor,
    gen: torch.Generator,
    steps: int,
) -> Tensor:
    def length(delta: Tensor) -> Tensor:
        norms: Tensor = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        return norms.clamp(min=1e-12)

    def within(delta: Tensor) -> Tensor:
        shrunk = delta * (radius / length(delta)).clamp(max=1)
        return torch.where(is_inf, delta.clamp(-radius, radius), shrunk)

    delta = within(start * radius)
    for _ in range(steps):
        delta.requires_grad_(True)
        z, levels = noise_pairs(x + delta, sigma, gen)
        (gradient,) = torch.autograd.grad((units(z, levels) * aim.repeat(2, 1)).sum(), delta)
        step = torch.where(is_inf, gradient.sign(), gradient / length(gradient))
        delta = within(delta.detach() + 1.6 / steps * radius * step)
    return delta
