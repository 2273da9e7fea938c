"""PGD through noise, as SmoothAdv (Salman et al. 2019), for the attacks of all fine-tuning stages."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from smoothgate_lab.psm_training.noise_pairs import noise_pairs

L_INF = (4 / 255, 20 / 255)
L2 = (0.3, 2.5)
SHARE_L_INF = 0.65
SHARE_CLEAN = 0.3
# Less noise cannot hide an attack of these radii, and learning to resist it costs faint details.
LEAST_SIGMA = 0.4

#: Noisy canvases (2 R, 3, H, W), their sigma (2 R,) and the numbers (R,) of the pictures in the batch -> what
#: the attack makes larger, a scalar. Rows i and R + i are two noises of one picture.
Gain = Callable[[Tensor, Tensor, Tensor], Tensor]


def attack(gain: Gain, x: Tensor, sigma: Tensor, gen: torch.Generator, steps: int = 3) -> Tensor:
    """PGD through two new noises per step, with steps of 1.6 / `steps` of the radius.

    Each picture gets its own norm and radius: l_inf 4/255 to 20/255 or l2 0.3 to 2.5. Three in ten
    pictures stay clean, and so do all with noise below 0.4.

    Args:
        gain: differentiable in the canvases.
        x: (B, 3, H, W) in [0, 1].
        sigma: (B,) noise levels.
        gen: generator of norms, radii and noise.
        steps: number of steps of PGD.

    Returns:
        (B, 3, H, W): x plus perturbations within their radii.
    """
    shape = (len(x), 1, 1, 1)

    def uniform(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(shape, generator=gen)).to(x)

    is_inf = uniform(0, 1) < SHARE_L_INF
    radius = torch.where(is_inf, uniform(*L_INF), uniform(*L2)) * (uniform(0, 1) > SHARE_CLEAN)
    start = torch.randn(x.shape, generator=gen).to(x) / x[0].numel() ** 0.5
    rows = ((sigma >= LEAST_SIGMA) & (radius.flatten() > 0)).nonzero().flatten()
    if not len(rows):
        return x
    perturbed = x.clone()
    perturbed[rows] += _ascend(
        gain, x[rows], sigma[rows], rows, is_inf[rows], radius[rows], start[rows], gen, steps
    )
    return perturbed


def _ascend(
    gain: Gain,
    x: Tensor,
    sigma: Tensor,
    rows: Tensor,
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
        (gradient,) = torch.autograd.grad(gain(z, levels, rows), delta)
        step = torch.where(is_inf, gradient.sign(), gradient / length(gradient))
        delta = within(delta.detach() + 1.6 / steps * radius * step)
    return delta
