"""The encoder of a bundled model: a CLIP tower and LLaVA's projector."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import CLIPVisionConfig, CLIPVisionModel


class ClipEncoder(nn.Module):
    """h: canvases (N, 3, H, W) in [0, 1] -> visual tokens (N, T, D), as LLaVA computes them.

    Args:
        config: of the tower. T is its number of patches.
        width: D, the width of the language model.
    """

    def __init__(self, config: CLIPVisionConfig, width: int) -> None:
        super().__init__()
        self.tower = CLIPVisionModel(config)
        self.linear_1 = nn.Linear(config.hidden_size, width)
        self.linear_2 = nn.Linear(width, width)

    @property
    def tokens(self) -> int:
        """T, the number of visual tokens of a picture."""
        config = self.tower.config
        return int((config.image_size // config.patch_size) ** 2)

    @property
    def width(self) -> int:
        """D, the width of a visual token."""
        return self.linear_2.out_features

    def forward(self, x: Tensor) -> Tensor:
        """Canvases (N, 3, H, W) in [0, 1] -> visual tokens (N, T, D)."""
        states = self.tower(pixel_values=(x - 0.5) / 0.5, output_hidden_states=True).hidden_states[-1]
        tokens: Tensor = self.linear_2(F.gelu(self.linear_1(states[:, 1:])))
        return tokens


def centred_unit(tokens: Tensor, mu: Tensor, *, follow: bool) -> Tensor:
    """Centred unit features (N, T, D) of visual tokens (N, T, D), as the service computes them.

    Args:
        tokens: visual tokens.
        mu: (T, D), the running mean of tokens.
        follow: whether `mu` moves towards these tokens, in place.
    """
    if follow:
        with torch.no_grad():
            mu.lerp_(tokens.detach().mean(0), 0.02)
    return F.normalize((tokens - mu).flatten(1), dim=1).view_as(tokens)
