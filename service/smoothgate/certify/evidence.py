"""Certification scores as they come in, and the bounds that hold after each of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from smoothgate.certify.betting import BettingSequence
from smoothgate.certify.layer_cake import Moments, Transform
from smoothgate.certify.scores import check_scores


class Evidence:
    """A betting sequence for each transform. All bounds hold at all times, so at any stopping time."""

    def __init__(self, transforms: tuple[Transform, ...]) -> None:
        self.transforms = transforms
        self._sequences = [BettingSequence(transform.alpha, transform.bets) for transform in transforms]

    def update(self, scores: npt.ArrayLike) -> None:
        """Take in further scores, in the order drawn; ValueError for one that is not a number in [0, 1]."""
        values = check_scores(scores)
        for transform, sequence in zip(self.transforms, self._sequences, strict=True):
            sequence.update(transform.apply(values))

    @property
    def moments(self) -> Moments:
        """The bounds after the scores seen so far."""
        return self.moments_if_perfect(0)

    def moments_if_perfect(self, further: int) -> Moments:
        """The bounds after so many further scores of 1: the best that any continuation could give."""
        lowers = [sequence.lower_if_perfect(further) for sequence in self._sequences]
        return Moments(self.transforms, np.asarray(lowers))
