"""Two noises of each picture, as training and its attacks use them."""

from __future__ import annotations

import torch
from torch import Tensor

from smoothgate.sampling.draw import noisy


def noise_pairs(x: Tensor, sigma: Tensor, gen: torch.Generator) -> tuple[Tensor, Tensor]:
    """Add two noises to each picture: rows i and B + i are picture i. Differentiable in x.

    Args:
        x: canvases (B, 3, H, W).
        sigma: (B,) noise level of each picture.
        gen: generator of the noise.

    Returns:
        (2 B, 3, H, W) noisy canvases, and the sigma (2 B,) of their noise.
    """
    levels = sigma.repeat(2)
    noise = torch.randn(2 * len(x), *x.shape[1:], generator=gen).to(x)
    return noisy(x.repeat(2, 1, 1, 1), levels, noise), levels
