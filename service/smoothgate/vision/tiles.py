"""Canvases that are made of tiles of one size, below each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def split_tiles(image: Tensor, side: int) -> list[Tensor]:
    """(3, R * side, C * side) -> its tiles (3, side, side), row by row."""
    rows = torch.split(image, side, 1)
    return [tile for row in rows for tile in torch.split(row, side, 2)]


def stack_tiles(pieces: Sequence[Tensor]) -> Tensor:
    """Pieces (3, H_i, W) -> a canvas (3, H_1 + H_2 + ..., W) with the pieces below each other."""
    return torch.cat(list(pieces), 1)


def unstack_tiles(x: Tensor, tile_height: int) -> Tensor:
    """Canvases (B, 3, K * h, W) -> their tiles (B, K, 3, h, W)."""
    batch, colours, _, width = x.shape
    return x.reshape(batch, colours, -1, tile_height, width).transpose(1, 2)
