"""Square attack (Andriushchenko et al. 2020): a black-box attack in l_inf that uses only scores."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

#: Pictures (B, 3, H, W) -> scores (B,) to minimise, with one query for each picture.
Score = Callable[[Tensor], Tensor]

_SHARE = 0.3
# Numbers of queries, of 10,000, after which the squares' share of the picture is halved (paper, section 5).
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def square(score: Score, x: Tensor, eps: float, queries: int, gen: torch.Generator) -> Tensor:
    """Add random squares of plus or minus eps, and keep those that lower the score.

    Args:
        score: called `queries` times.
        x: (B, 3, H, W) in [0, 1].
        eps: l_inf radius.
        queries: number of queries per picture, at least 1.
        gen: generator of the squares.

    Returns:
        (B, 3, H, W): pictures in [0, 1] within eps of x.
    """
    count, channels, height, width = x.shape
    stripes = torch.randint(2, (count, channels, 1, width), generator=gen) * 2.0 - 1
    best = (x + eps * stripes.to(x)).clamp(0, 1)
    least = score(best)
    for query in range(1, queries):
        side = max(1, round((_share(query / queries) * height * width) ** 0.5))
        delta = best - x
        for row in range(count):
            top, left = (int(torch.randint(s - side + 1, (), generator=gen)) for s in (height, width))
            signs = torch.randint(2, (channels, 1, 1), generator=gen) * 2.0 - 1
            delta[row, :, top : top + side, left : left + side] = eps * signs.to(x)
        tried = (x + delta).clamp(0, 1)
        reached = score(tried)
        better = reached < least
        best = torch.where(better.view(-1, 1, 1, 1), tried, best)
        least = torch.where(better, reached, least)
    return best


def _share(progress: float) -> float:
    return math.ldexp(_SHARE, -sum(10_000 * progress > after for after in _HALVINGS))
