"""What is attacked and asked: pictures to what the language model sees of them, differentiable all the way.

An adaptive attack differentiates the very pipeline that it attacks, through purifier, mapper and the mean over
fresh noise (EOT, Athalye et al. 2018). A transferred one differentiates the undefended model.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from service.psm.encoder import UnitEncoder


class Victim(Protocol):
    """Pictures to features and to visual tokens. Fresh noise, where there is any, comes from `gen`."""

    def features(self, x: Tensor, gen: torch.Generator) -> Tensor:
        """Canvases (B, 3, H, W) -> unit features (B, T * D)."""
        ...

    def tokens(self, x: Tensor, gen: torch.Generator) -> Tensor:
        """Canvases (B, 3, H, W) -> what the language model sees (B, T, D)."""
        ...


class Undefended:
    """The model as it is: no noise, no purifier, no mapper."""

    def __init__(self, encoder: UnitEncoder) -> None:
        self._encoder = encoder

    def features(self, x: Tensor, gen: torch.Generator) -> Tensor:
        """Canvases (B, 3, H, W) -> unit features (B, T * D)."""
        return self._encoder.clean(x)

    def tokens(self, x: Tensor, gen: torch.Generator) -> Tensor:
        """Canvases (B, 3, H, W) -> what the language model sees (B, T, D)."""
        return self._encoder.adapter.tokens(x).float()


class Smoothed:
    """Feature-space smoothing as the service does it: the direction of the mean over `draws` noisy copies.

    Args:
        encoder: with the PSM that is in use.
        sigma: of the noise.
        draws: copies; in an attack few, with fresh noise at every step.
    """

    def __init__(self, encoder: UnitEncoder, sigma: float, draws: int) -> None:
        self._encoder = encoder
        self.sigma = sigma
        self.draws = draws

    def features(self, x: Tensor, gen: torch.Generator) -> Tensor:
        """Canvases (B, 3, H, W) -> unit features (B, T * D)."""
        copies = x.repeat_interleave(self.draws, 0)
        noise = torch.randn(copies.shape, generator=gen).to(x)
        levels = torch.full((len(copies),), self.sigma, device=x.device)
        units = self._encoder.units(copies + self.sigma * noise, levels)
        return F.normalize(units.view(len(x), self.draws, -1).mean(1), dim=1)

    def tokens(self, x: Tensor, gen: torch.Generator) -> Tensor:
        """Canvases (B, 3, H, W) -> what the language model sees (B, T, D)."""
        return self._encoder.served(self.features(x, gen))
