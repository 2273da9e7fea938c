"""The smoothness mapper M: it stabilises visual tokens after the frozen encoder (paper, section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smoothgate.psm.blocks import MLP, Attention, Conv, FiLM, NoiseLevel

# The noise level at which half of the update passes.
_HALF_OPEN = 0.05


@dataclass(frozen=True, slots=True)
class ResidualMapperConfig:
    """Size of a `ResidualMapper`.

    Attributes:
        hidden_size: D, the width of the tokens.
        grid: (rows, columns) of the patches behind the tokens, or None if it depends on the image. The mapper
            then knows no positions and mixes tokens only by attention.
        width: number of channels inside.
        depth: number of blocks of attention, depthwise convolution and MLP.
        heads: number of heads of each attention.
        noise_width: width of the embedding of sigma.
    """

    hidden_size: int
    grid: tuple[int, int] | None
    width: int = 160
    depth: int = 1
    heads: int = 5
    noise_width: int = 128


class ResidualMapper(nn.Module):
    """Adds an update to the tokens that grows with the noise level. At sigma = 0 it is exactly the identity.

    It works on standardised tokens. `mean` and `std` (D,) are those of clean tokens, measured before
    training.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: ResidualMapperConfig) -> None:
        super().__init__()
        self.config = c = config
        self.register_buffer("mean", torch.zeros(c.hidden_size))
        self.register_buffer("std", torch.ones(c.hidden_size))
        self.level = NoiseLevel(c.noise_width)
        self.inwards = nn.Linear(c.hidden_size, c.width)
        if c.grid is not None:
            self.place = nn.Parameter(torch.zeros(c.grid[0] * c.grid[1], c.width))
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                [
                    Attention(c.width, c.heads, c.noise_width),
                    *([] if c.grid is None else [_GridMixing(c.width, c.grid, c.noise_width)]),
                    MLP(c.width, c.noise_width),
                ]
            )
            for _ in range(c.depth)
        )
        self.film = FiLM(c.width, c.noise_width)
        self.outwards = nn.Linear(c.width, c.hidden_size)
        nn.init.zeros_(self.outwards.weight)
        nn.init.zeros_(self.outwards.bias)

    def forward(self, tokens: Tensor, sigma: Tensor) -> Tensor:
        """Tokens (B, T, D) of noisy canvases and their sigma (B,) -> tokens (B, T, D)."""
        level = self.level(sigma)
        x = self.inwards(((tokens - self.mean) / self.std).to(self.inwards.weight.dtype))
        if self.config.grid is not None:
            cells = len(self.place)
            x = torch.cat([x[:, :-cells], x[:, -cells:] + self.place[-x.shape[1] :]], 1)
        for block in self.blocks:
            for layer in block:  # type: ignore[attr-defined]
                x = layer(x, level)
        gate = (sigma / (sigma + _HALF_OPEN)).view(-1, 1, 1).to(tokens.dtype)
        update: Tensor = self.outwards(self.film(x, level)).to(tokens.dtype)
        return tokens + gate * self.std * update


class _GridMixing(nn.Module):
    """Residual depthwise convolution over the grid of patches.

    The grid is at the end of the sequence. A class token before it does not change. If the first patch is
    missing (in SigLIP towers whose first token is dropped), it counts as zero.
    """

    def __init__(self, width: int, grid: tuple[int, int], noise_width: int) -> None:
        super().__init__()
        self.grid = grid
        self.film = FiLM(width, noise_width)
        self.conv = Conv(width, width, groups=width)
        nn.init.zeros_(self.conv.weight)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """(B, T, C) and the embedding of the noise level (B, noise_width) -> (B, T, C)."""
        b, t, c = x.shape
        cells = self.grid[0] * self.grid[1]
        patches = self.film(x, level)[:, -cells:]
        missing = cells - patches.shape[1]
        patches = torch.cat([patches.new_zeros(b, missing, c), patches], 1)
        mixed = self.conv(patches.view(b, *self.grid, c)).reshape(b, cells, c)[:, missing:]
        return x + torch.cat([x.new_zeros(b, t - mixed.shape[1], c), mixed], 1)
