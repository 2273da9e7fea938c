"""The encoders under attack: differentiable functions from pictures to what the language model sees.

An adaptive attack differentiates the pipeline that it attacks, through purifier, mapper and the mean over new
noise (EOT, Athalye et al. 2018). A transferred attack differentiates the undefended model.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.sampling.draw import NoiseSource, draw, generator_noise, noisy
from smoothgate.sampling.selection import scores_against, select

_BATCH = 128


class Seen(NamedTuple):
    """Unit features (B, T * D) and the visual tokens (B, T, D) that the language model sees."""

    features: Tensor
    tokens: Tensor


class Victim(Protocol):
    """An encoder under attack."""

    def see(self, x: Tensor, gen: torch.Generator) -> Seen:
        """Encode canvases (B, 3, H, W). Differentiable. If the encoder adds noise, it is drawn from `gen`."""
        ...


class Undefended:
    """The model without noise, purifier and mapper."""

    def __init__(self, encoder: UnitEncoder) -> None:
        self._encoder = encoder

    def see(self, x: Tensor, gen: torch.Generator) -> Seen:
        """As `Victim.see`."""
        tokens = self._encoder.adapter.tokens(x).float()
        return Seen(self._encoder.unit(tokens), tokens)


class SmoothedVictim:
    """Feature-space smoothing as the service does it: the direction of the mean over `draws` noisy copies.

    Args:
        encoder: with the PSM in use.
        sigma: noise level.
        draws: number of noisy copies. An attack uses few, with new noise at every step.
    """

    def __init__(self, encoder: UnitEncoder, sigma: float, draws: int) -> None:
        self._encoder = encoder
        self.sigma = sigma
        self.draws = draws

    def see(self, x: Tensor, gen: torch.Generator) -> Seen:
        """As `Victim.see`."""
        units = self._units(x, self.draws, gen).view(len(x), self.draws, -1)
        features = F.normalize(units.mean(1), dim=1)
        return Seen(features, self._encoder.served(features))

    def see_each(self, x: Tensor, gen: torch.Generator) -> Seen:
        """The noisy copies one by one, those of a picture together: B * draws rows. So a vote sees them."""
        units = self._units(x, self.draws, gen)
        return Seen(units, self._encoder.served(units))

    def see_with(self, x: Tensor, noise: NoiseSource) -> Tensor:
        """The visual tokens (T, D) of one canvas (3, H, W), with noise from this source."""
        t, _ = select(draw(self._encoder.units, x, self.sigma, noise, self.draws, batch=_BATCH))
        return self._encoder.served_tokens(t)

    def _units(self, x: Tensor, draws: int, gen: torch.Generator) -> Tensor:
        """Unit features (B * draws, T * D) of noisy copies, those of a picture together."""
        copies = x.repeat_interleave(draws, 0)
        levels = torch.full((len(copies),), self.sigma, device=x.device)
        noise = torch.randn(copies.shape, generator=gen).to(x)
        return self._encoder.units(noisy(copies, levels, noise), levels)

    def scores(self, x: Tensor, t: Tensor, n: int, gen: torch.Generator) -> list[float]:
        """Scores of n noisy copies of a canvas (3, H, W) against a direction t (T * D)."""
        with torch.inference_mode():
            copies = draw(self._encoder.units, x, self.sigma, generator_noise(gen), n, batch=_BATCH)
            return scores_against(t, copies)
