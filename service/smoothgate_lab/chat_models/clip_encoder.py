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

    def forward(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        """Canvases (N, 3, H, W) in [0, 1] -> visual tokens (N, T, D).

        Args:
            x: the canvases.
            kept: (N, K), the patches that the tower sees of each canvas, to train faster. It gives visual
                tokens (N, K, D). None: all patches.
        """
        states = self.tower.pre_layrnorm(self.tower.embeddings((x - 0.5) / 0.5))
        if kept is not None:
            # State 0 is the class embedding's.
            places = F.pad(kept + 1, (1, 0))
            states = states.gather(1, places[..., None].expand(-1, -1, states.shape[2]))
        states = self.tower.encoder(inputs_embeds=states).last_hidden_state
        tokens: Tensor = self.linear_2(F.gelu(self.linear_1(states[:, 1:])))
        return tokens


def centred_unit(tokens: Tensor, mu: Tensor, *, follow: bool, kept: Tensor | None = None) -> Tensor:
    """Centred unit features (N, T, D) of visual tokens (N, T, D), as the service computes them.

    Args:
        tokens: visual tokens.
        mu: (T, D), the running mean of tokens.
        follow: whether `mu` moves towards these tokens, in place.
        kept: (N, K), the places of the tokens (N, K, D) that there are. None: all T.
    """
    if follow:
        with torch.no_grad():
            mu.copy_(_towards(mu, tokens.detach(), kept))
    centre = mu if kept is None else mu[kept]
    return F.normalize((tokens - centre).flatten(1), dim=1).view_as(tokens)


def _towards(mu: Tensor, tokens: Tensor, kept: Tensor | None) -> Tensor:
    """`mu`, moved by a fiftieth towards the mean of tokens at each place. A place without tokens stays."""
    if kept is None:
        return mu.lerp(tokens.mean(0), 0.02)
    places = kept.flatten()
    sums = torch.zeros_like(mu).index_add_(0, places, tokens.flatten(0, 1))
    counts = torch.bincount(places, minlength=len(mu))[:, None]
    return torch.where(counts > 0, mu.lerp(sums / counts.clamp(min=1), 0.02), mu)
