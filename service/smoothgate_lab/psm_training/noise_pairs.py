"""Two noises of each picture: what training and its attacks show the networks."""

from __future__ import annotations

import torch
from torch import Tensor

from smoothgate.sampling.draw import noisy


def noise_pairs(x: Tensor, sigma: Tensor, gen: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows i and B + i are picture i, each with noise of its own. Differentiable in x.

    Args:
        x: canvases (B, 3, H, W).
        sigma: (B,) of the noise of each picture.
        gen: of the noise.

    Returns:
        (2 B, 3, H, W) noisy canvases, and the sigma (2 B,) of their noise.
    """
    levels = sigma.repeat(2)
    noise = torch.randn(2 * len(x), *x.shape[1:], generator=gen).to(x)
    return noisy(x.repeat(2, 1, 1, 1), levels, noise), levels
