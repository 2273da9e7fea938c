"""The losses of the paper (section 4) and one of ours, all on noisy canvases of one batch.

`rb` asks for the clean feature, which is what the answers need; `consistency`, our extension, asks two
noises of one picture to agree, which is what the certificate measures (the score s is taken against the
mean of the noisy features, not against the clean one). Alone it would be met by a constant; beside `rb` it
only decides how much of what the noise leaves uncertain is shown to the language model.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def diffusion(purified: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """l_diff: squared error of the noise that (z - P(z)) / sigma claims, for canvases (B, 3, H, W), sigma
    (B,).

    Weighted as in EDM (Karras et al. 2022, section 5), so that it stays finite as sigma goes to 0.
    """
    weight = 1 / sigma.square().clamp(min=1e-4) + 1 / 0.3**2
    return (weight * (purified - x).square().flatten(1).mean(1)).mean()


def mse(purified: Tensor, x: Tensor) -> Tensor:
    """l_mse: squared error of the canvases (B, 3, H, W), summed over the pixels."""
    return (purified - x).square().flatten(1).sum(1).mean()


def rb(units: Tensor, clean: Tensor) -> Tensor:
    """l_rb = 1 - cos of unit features (B, T * D) with the clean ones."""
    return 1 - (units * clean).sum(1).mean()


def consistency(units: Tensor) -> Tensor:
    """1 - cos of the unit features (2 B, T * D) of two noises: of row i with row B + i."""
    first, second = units.chunk(2)
    return 1 - (first * second).sum(1).mean()


def statistics(tokens: Tensor, clean: Tensor, std: Tensor) -> Tensor:
    """l_stats: mean and standard deviation of each channel over the tokens of a picture, (B, T, D) each, as
    clean.

    Args:
        tokens: mapped.
        clean: of the same pictures without noise.
        std: (D,), the unit of each channel.
    """
    mean = F.mse_loss(tokens.mean(1) / std, clean.mean(1) / std)
    return mean + F.mse_loss(tokens.std(1) / std, clean.std(1) / std)


def identity(mapped: Tensor, clean: Tensor, std: Tensor) -> Tensor:
    """l_id: clean tokens (B, T, D), mapped at a sigma near 0, stay as they are."""
    return F.mse_loss(mapped / std, clean / std)
