"""Random changes of training photographs that keep what they show. All act on a whole batch at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def shifted(x: Tensor, gen: torch.Generator, most: int = 4) -> Tensor:
    """Canvases (N, 3, H, W), half of them mirrored, moved by up to `most` pixels. Edges are reflected."""
    n, _, height, width = x.shape
    mirrored = torch.rand(n, 1, 1, 1, generator=gen) < 0.5
    padded = F.pad(torch.where(mirrored, x.flip(3), x), (most,) * 4, mode="reflect")
    down, right = torch.randint(2 * most + 1, (2, n, 1), generator=gen)
    rows, columns = down + torch.arange(height), right + torch.arange(width)
    # Indices (N, 1, H, 1) and (N, 1, 1, W) beside (N, 1, 1, 1) and (3, 1, 1) give (N, 3, H, W).
    return padded[
        torch.arange(n)[:, None, None, None],
        torch.arange(x.shape[1])[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


def cut_out(x: Tensor, gen: torch.Generator, side: int = 8) -> Tensor:
    """Canvases (N, 3, H, W) with one grey square each (DeVries & Taylor 2017)."""
    n, _, height, width = x.shape
    top = torch.randint(height - side + 1, (n, 1), generator=gen)
    left = torch.randint(width - side + 1, (n, 1), generator=gen)
    rows, columns = torch.arange(height), torch.arange(width)
    inside_rows = (rows >= top) & (rows < top + side)
    inside_columns = (columns >= left) & (columns < left + side)
    inside = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    return x.masked_fill(inside, 0.5)


def turned(x: Tensor, gen: torch.Generator, angle: float = 0.25, scale: float = 0.2) -> Tensor:
    """Canvases (N, 3, H, W), turned by up to `angle` radians and scaled by up to 1 +- `scale`."""
    theta = angle * (2 * torch.rand(len(x), generator=gen) - 1)
    factor = 1 + scale * (2 * torch.rand(len(x), generator=gen) - 1)
    cos, sin, zero = factor * theta.cos(), factor * theta.sin(), torch.zeros(len(x))
    rows = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)
    grid = F.affine_grid(rows, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def mixed(x: Tensor, gen: torch.Generator) -> Tensor:
    """Canvases (N, 3, H, W), half of them mixed with another of the batch (mixup, Zhang et al. 2018).

    What a mixture shows is for a teacher to say: no label is given.
    """
    share = torch.rand(len(x), 1, 1, 1, generator=gen) * 0.5
    share = share * (torch.rand(len(x), 1, 1, 1, generator=gen) < 0.5)
    return (1 - share) * x + share * x[torch.randperm(len(x), generator=gen)]
