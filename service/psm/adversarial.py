"""Feature-space attacks for adversarial fine-tuning of purifier and mapper: our extension, not the
paper's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_L_INF = (4 / 255, 20 / 255)
_L2 = (0.3, 2.5)
_SHARE_L_INF = 0.65
_SHARE_CLEAN = 0.3


def perturb(
    units: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    sigma: Tensor,
    clean: Tensor,
    gen: torch.Generator,
    steps: int = 2,
) -> Tensor:
    """Push pictures away from their clean feature: PGD through fresh noise, a step 1.6 / `steps` of the
    radius.

    Each picture gets a norm and a radius of its own: l_inf 4/255 to 20/255 or l2 0.3 to 2.5; three in ten
    stay clean.

    Args:
        units: noisy canvases and sigma -> unit features, differentiable.
        x: (B, 3, H, W) in [0, 1].
        sigma: (B,).
        clean: (B, T * D) unit features.
        gen: of norms, radii and noise.
        steps: of PGD.

    Returns:
        (B, 3, H, W): x plus perturbations within their radii.
    """
    shape = (len(x), 1, 1, 1)

    def uniform(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(shape, generator=gen)).to(x)

    is_inf = uniform(0, 1) < _SHARE_L_INF
    radius = torch.where(is_inf, uniform(*_L_INF), uniform(*_L2)) * (uniform(0, 1) > _SHARE_CLEAN)

    def within(delta: Tensor) -> Tensor:
        length = delta.flatten(1).norm(dim=1).view(shape).clamp(min=1e-12)
        return torch.where(is_inf, delta.clamp(-radius, radius), delta * (radius / length).clamp(max=1))

    delta = within(torch.randn(x.shape, generator=gen).to(x) * radius / x[0].numel() ** 0.5)
    for _ in range(steps):
        delta.requires_grad_(True)
        z = x + delta + sigma.view(shape) * torch.randn(x.shape, generator=gen).to(x)
        (gradient,) = torch.autograd.grad((units(z, sigma) * clean).sum(), delta)
        length = gradient.flatten(1).norm(dim=1).view(shape).clamp(min=1e-12)
        step = torch.where(is_inf, gradient.sign(), gradient / length)
        delta = within(delta.detach() - 1.6 / steps * radius * step)
    return x + delta
