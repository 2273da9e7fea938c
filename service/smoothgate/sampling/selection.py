"""The direction that the selection samples choose, and the score of a sample against it."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from smoothgate.certify.scores import Array
from smoothgate.errors import Unacceptable

# A sum of unit vectors that is shorter than this has no direction that can be told from rounding.
_SHORTEST = 1e-3


class Selection:
    """The running sum of the selection samples of one image, in float64. Its direction is served."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None

    def add(self, units: Tensor) -> Tensor:
        """Take in the next unit features (k, T * D), in the order drawn. Nothing here waits for the device.

        Returns (k,) float64: the score of each sample against the mean direction of the samples *before* it,
        NaN where that has no length. It is close to what certification will see, and the samples need not be
        kept for it. It may guide choices (thresholds, stakes). It proves nothing.
        """
        if self._sum is None:
            self._sum = units.new_zeros(units.shape[1], dtype=torch.float64)
        # <u_i, S + u_0 + ... + u_{i-1}> and the length of that sum follow from the products of the samples,
        # so that no further tensor of the size of `units` is needed.
        products = (units @ units.T).double()
        with_sum = (units @ self._sum.float()).double()
        with_earlier = products.tril(-1).sum(1)
        growth = 2 * (with_sum + with_earlier) + products.diagonal()
        squares = self._sum.square().sum() + growth.cumsum(0) - growth
        lengths = squares.clamp(min=0).sqrt()
        scores = score((with_sum + with_earlier) / lengths)
        self._sum += units.sum(0, dtype=torch.float64)
        return torch.where(lengths > _SHORTEST, scores, torch.nan)

    def direction(self) -> Tensor:
        """t (T * D) float32, of length 1, on the device of the samples.

        Raises:
            Unacceptable: the samples cancel out, or are no numbers, so that there is no direction to serve.
        """
        # Written so that a length of NaN fails too.
        if self._sum is None or not _SHORTEST <= (length := float(self._sum.norm())) < math.inf:
            raise Unacceptable(
                "The noisy features of this image have no common direction.", code="no_direction"
            )
        t: Tensor = (self._sum / length).float()
        return t


def select(batches: Iterable[Tensor]) -> tuple[Tensor, list[float]]:
    """t (T * D) and the selection scores, from all unit features of a selection split, in the order drawn.

    Raises:
        Unacceptable: as `Selection.direction`.
    """
    selection = Selection()
    scores = torch.cat([selection.add(units) for units in batches])
    return selection.direction(), known(scores.cpu().numpy())


def known(scores: Array) -> list[float]:
    """The selection scores that are numbers."""
    numbers: list[float] = scores[~np.isnan(scores)].tolist()
    return numbers


def score(cosines: Tensor) -> Tensor:
    """S = (1 + cosine) / 2 in float64, clipped to [0, 1] against rounding."""
    return ((1.0 + cosines.double()) / 2.0).clamp(0.0, 1.0)


def scores_against(t: Tensor, batches: Iterable[Tensor]) -> list[float]:
    """S = (1 + <u, t>) / 2 of all unit features (k, T * D) of some batches."""
    scores: list[float] = []
    for units in batches:
        scores += score(units @ t).tolist()
    return scores
