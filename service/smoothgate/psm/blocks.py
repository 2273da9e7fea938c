"""The layers of purifier and mapper. They are channels-last and take the noise level."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class NoiseLevel(nn.Module):
    """sigma (B,) -> embedding (B, width), from Fourier features of log sigma.

    All levels below `SMALLEST` have the same embedding.
    """

    SMALLEST = 0.005
    frequencies: Tensor

    def __init__(self, width: int, features: int = 32) -> None:
        super().__init__()
        octaves = torch.linspace(math.log(0.25), math.log(8.0), features // 2).exp()
        self.register_buffer("frequencies", octaves, persistent=False)
        self.layers = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, sigma: Tensor) -> Tensor:
        """sigma (B,) -> embedding (B, width)."""
        level = sigma.float().clamp(min=self.SMALLEST).log()[:, None] * self.frequencies
        features = torch.cat([level.sin(), level.cos()], 1)
        embedding: Tensor = self.layers(features.to(self.frequencies.dtype))
        return embedding


class FiLM(nn.Module):
    """Normalises the last dimension, then scales and shifts it by the noise level (Perez et al. 2018)."""

    def __init__(self, width: int, noise_width: int) -> None:
        super().__init__()
        self.width = width
        self.to_film = nn.Linear(noise_width, 2 * width)
        nn.init.zeros_(self.to_film.weight)
        nn.init.zeros_(self.to_film.bias)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """(B, ..., C) and the embedding of the noise level (B, noise_width) -> (B, ..., C)."""
        scale, shift = self.to_film(level).view(len(x), *[1] * (x.ndim - 2), 2 * self.width).chunk(2, -1)
        return torch.addcmul(shift, F.layer_norm(x, (self.width,)), 1 + scale)


class Conv(nn.Conv2d):
    """A 3 x 3 convolution over (B, H, W, C)."""

    def __init__(self, inputs: int, outputs: int, *, groups: int = 1) -> None:
        super().__init__(inputs, outputs, 3, padding=1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, inputs) -> (B, H, W, outputs)."""
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class ConvBlock(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, width: int, noise_width: int) -> None:
        super().__init__()
        self.film = FiLM(width, noise_width)
        self.first = Conv(width, width)
        self.second = Conv(width, width)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """(B, H, W, C) and the embedding of the noise level (B, noise_width) -> (B, H, W, C)."""
        update: Tensor = self.second(F.gelu(self.first(self.film(x, level)), approximate="tanh"))
        return x + update


class Attention(nn.Module):
    """Residual multi-head self-attention over a sequence."""

    def __init__(self, width: int, heads: int, noise_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.film = FiLM(width, noise_width)
        self.to_qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """(B, T, C) and the embedding of the noise level (B, noise_width) -> (B, T, C)."""
        b, t, c = x.shape
        q, k, v = self.to_qkv(self.film(x, level)).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, c)
        update: Tensor = self.out(mixed)
        return x + update


class MLP(nn.Module):
    """A residual two-layer perceptron over the last dimension."""

    def __init__(self, width: int, noise_width: int, ratio: int = 3) -> None:
        super().__init__()
        self.film = FiLM(width, noise_width)
        self.first = nn.Linear(width, ratio * width)
        self.second = nn.Linear(ratio * width, width)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """(B, ..., C) and the embedding of the noise level (B, noise_width) -> (B, ..., C)."""
        update: Tensor = self.second(F.gelu(self.first(self.film(x, level)), approximate="tanh"))
        return x + update
