"""Whether a picture is like those that the demo model was trained on.

The model answers with a digit to white noise too, and that answer may hold within a radius. So three figures
of a picture are compared with those of 800 held-out pictures. Each limit leaves out 1 in 200 of them
(`python -m smoothgate_lab.demo.likeness_ranges`). A picture within all limits may still be of another kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from smoothgate.psm.unit_encoder import UnitEncoder

_SIGMA = 0.5
_COPIES = 16


@dataclass(frozen=True, slots=True)
class Likeness:
    """Figures of one picture.

    Attributes:
        repainted: root mean square of what the purifier changes in the picture, pixels in [0, 1].
        strength: length of the centred feature, as a share of the usual length.
        agreement: cosine between the features without and with noise.
    """

    repainted: float
    strength: float
    agreement: float

    @property
    def is_known(self) -> bool:
        """Whether all figures are in their ranges."""
        return (
            self.repainted <= MOST_REPAINTED
            and LEAST_STRENGTH <= self.strength <= MOST_STRENGTH
            and self.agreement >= LEAST_AGREEMENT
        )


MOST_REPAINTED: Final = 0.1
LEAST_STRENGTH: Final = 0.61
MOST_STRENGTH: Final = 1.44
LEAST_AGREEMENT: Final = 0.46


@torch.inference_mode()
def likeness(encoder: UnitEncoder, x: Tensor) -> Likeness:
    """The figures of a canvas (3, H, W), with the same noise for every picture."""
    gen = torch.Generator().manual_seed(0)
    noise = torch.randn((_COPIES, *x.shape), generator=gen)
    copies = (x + _SIGMA * noise).to(encoder.adapter.device)
    sigma = torch.full((_COPIES,), _SIGMA, device=copies.device)
    repainted = encoder.purified(copies, sigma).mean(0).float().cpu() - x
    smoothed = F.normalize(encoder.units(copies, sigma).mean(0), dim=0)
    tokens = encoder.adapter.tokens(x[None].to(copies.device)).float()
    mu = encoder.calibration.mu.to(tokens)
    usual = encoder.calibration.length(tokens.shape[1])
    return Likeness(
        float(repainted.square().mean().sqrt()),
        float((tokens[0] - mu).norm()) / usual,
        float(encoder.unit(tokens)[0] @ smoothed),
    )
