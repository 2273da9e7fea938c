"""The purifier P: it removes noise from a canvas before the frozen encoder (paper, section 4.1).

P takes z = x + d with d ~ N(0, sigma^2 I), unscaled and unclipped as in the certificate, and the exact
sigma of d. It computes by itself what its network needs instead, such as another value range or a
timestep.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from smoothgate.psm.blocks import Attention, Conv, ConvBlock, NoiseLevel

# Mean and standard deviation of the pixels of ordinary pictures in [0, 1]. They scale the network's input to
# about unit variance.
_PIXEL_MEAN = 0.5
_PIXEL_STD = 0.3


@dataclass(frozen=True, slots=True)
class LightUNetConfig:
    """Size of a `LightUNet`.

    Attributes:
        patch: side of the pixel blocks that are folded into channels before the first convolution.
        width: number of channels at 1 / patch of the resolution.
        depth: number of convolution blocks there, before the core and again after it.
        core_width: number of channels in the core, at half of that resolution.
        core_depth: number of convolution blocks in the core, each followed by an attention.
        heads: number of heads of each attention.
        noise_width: width of the embedding of sigma.
    """

    patch: int = 4
    width: int = 64
    depth: int = 1
    core_width: int = 176
    core_depth: int = 2
    heads: int = 4
    noise_width: int = 128


class LightUNet(nn.Module):
    """A small U-Net for a CPU, with two resolutions and noise-level FiLM.

    It is preconditioned as in EDM (Karras et al. 2022, table 1). It takes canvases of any size: it pads
    them by reflection to a multiple of its patches, and crops the result. Its weights do not depend on
    the size.
    """

    def __init__(self, config: LightUNetConfig) -> None:
        super().__init__()
        self.config = c = config
        folded = 3 * c.patch**2
        self.level = NoiseLevel(c.noise_width)
        self.inwards = Conv(folded, c.width)
        self.down = nn.ModuleList(ConvBlock(c.width, c.noise_width) for _ in range(c.depth))
        self.to_core = nn.Linear(4 * c.width, c.core_width)
        self.core = nn.ModuleList(
            nn.ModuleList(
                [ConvBlock(c.core_width, c.noise_width), Attention(c.core_width, c.heads, c.noise_width)]
            )
            for _ in range(c.core_depth)
        )
        self.from_core = nn.Linear(c.core_width, 4 * c.width)
        self.merge = nn.Linear(2 * c.width, c.width)
        self.up = nn.ModuleList(ConvBlock(c.width, c.noise_width) for _ in range(c.depth))
        self.outwards = Conv(c.width, folded)
        nn.init.zeros_(self.outwards.weight)

    def forward(self, z: Tensor, sigma: Tensor) -> Tensor:
        """Noisy canvases (B, 3, H, W) and their sigma (B,) -> estimated clean canvases (B, 3, H, W)."""
        size = z.shape[-2:]
        z = pad(z, 2 * self.config.patch)
        level = sigma.view(-1, 1, 1, 1).to(z)
        total = (level.square() + _PIXEL_STD**2).rsqrt()
        centred = z - _PIXEL_MEAN
        update = self._net(centred * total, sigma)
        clean = centred * (_PIXEL_STD * total).square() + update * (_PIXEL_STD * level * total)
        return (clean + _PIXEL_MEAN)[..., : size[0], : size[1]]

    def _net(self, z: Tensor, sigma: Tensor) -> Tensor:
        patch = self.config.patch
        level = self.level(sigma)
        x = self.inwards(_fold(z.permute(0, 2, 3, 1).to(self.merge.weight.dtype), patch))
        for block in self.down:
            x = block(x, level)
        y = self.to_core(_fold(x, 2))
        for stage in self.core:
            conv, attention = stage.children()
            y = conv(y, level)
            y = attention(y.flatten(1, 2), level).view_as(y)
        x = self.merge(torch.cat([x, _unfold(self.from_core(y), 2)], -1))
        for block in self.up:
            x = block(x, level)
        return _unfold(self.outwards(x), patch).permute(0, 3, 1, 2).to(z.dtype)


def _fold(x: Tensor, by: int) -> Tensor:
    """(B, H, W, C) -> (B, H / by, W / by, by * by * C)."""
    b, h, w, c = x.shape
    return (
        x.view(b, h // by, by, w // by, by, c)
        .permute(0, 1, 3, 2, 4, 5)
        .reshape(b, h // by, w // by, by * by * c)
    )


def _unfold(x: Tensor, by: int) -> Tensor:
    """The inverse of `_fold`."""
    b, h, w, c = x.shape
    x = x.view(b, h, w, by, by, c // by**2).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h * by, w * by, c // by**2)


def pad(z: Tensor, multiple: int) -> Tensor:
    """Pad by reflection at the bottom and on the right to a multiple of `multiple`."""
    bottom, right = (-side % multiple for side in z.shape[-2:])
    return F.pad(z, (0, right, 0, bottom), mode="reflect") if bottom or right else z
