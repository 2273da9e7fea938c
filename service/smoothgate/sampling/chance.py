"""How alike the smoothed features of unrelated images are: what a certified cosine is compared with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy.stats import binom
from torch import Tensor

from smoothgate.psm.calibration import ChanceFigures
from smoothgate.sampling.draw import Units, draw, generator_noise
from smoothgate.sampling.selection import select

_QUANTILE = 0.95
#: Probability, over the pictures, that the 95th percentile lies above its limit is at most 1 minus this.
CONFIDENCE = 0.95
#: Pictures that it takes: 59 pairs.
FEWEST = 118


@torch.no_grad()
def chance_figures(
    units: Units, pictures: Tensor, sigmas: Sequence[float], seed: int, copies: int
) -> dict[str, ChanceFigures]:
    """Cosines of the served directions of unrelated images, through purifier and mapper, by sigma.

    Each picture is in one pair, so that the pairs are independent: picture 2 k with picture 2 k + 1. Fewer
    than `FEWEST` pictures calibrate no sigma.

    Args:
        units: the encoder with its PSM.
        pictures: canvases (N, 3, H, W) of unrelated images, on the encoder's device.
        sigmas: noise levels.
        seed: of the noise.
        copies: noise samples behind each direction.
    """
    noise = generator_noise(torch.Generator().manual_seed(seed))
    found = {}
    for sigma in sigmas:
        directions = torch.stack(
            [select(draw(units, x, sigma, noise, copies, batch=copies))[0].cpu() for x in pictures]
        )
        pairs = len(directions) // 2
        cosines = (directions[: 2 * pairs : 2] * directions[1 : 2 * pairs : 2]).sum(1).double()
        limit = upper_limit(cosines.tolist())
        if limit is not None:
            found[f"{sigma:g}"] = ChanceFigures(mean=float(cosines.mean()), p95_limit=limit, pairs=pairs)
    return found


def upper_limit(
    values: Sequence[float], quantile: float = _QUANTILE, confidence: float = CONFIDENCE
) -> float | None:
    """An upper confidence limit of a quantile of a cosine, from independent values: an order statistic.

    The number of values below the quantile is binomial, so the r-th smallest value is below the quantile with
    probability P(Bin(n, quantile) >= r). There is no limit where there are too few values: at 95 % and 95 %,
    fewer than 59.
    """
    n = len(values)
    rank = int(binom.ppf(confidence, n, quantile)) + 1
    return sorted(values)[rank - 1] if rank <= n else None
