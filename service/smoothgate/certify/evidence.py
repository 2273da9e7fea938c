"""Certification scores as they come in, and the bounds that hold after each of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from smoothgate.certify.angular import AngularBound, AngularTransform
from smoothgate.certify.layer_cake import Moments, Transform
from smoothgate.certify.scores import Array, check_scores


@dataclass(frozen=True, slots=True, eq=False)
class Established:
    """What the scores establish. All of it is true with probability at least 1 - alpha of the image.

    Attributes:
        moments: bounds that carry the inner product.
        angular: one bound for each cosine that has an angular radius.
    """

    moments: Moments
    angular: tuple[AngularBound, ...]


class Evidence:
    """Certification scores, and lower bounds on the means of their transforms.

    The bounds are confidence sequences: all of them hold at all times, so they hold at any stopping time.
    They depend on the scores and not on how the scores were cut into updates, so that they can be replayed.

    Args:
        transforms: from `layer_cake.choose_transforms`.
        angular: one for each cosine that gets an angular radius.
    """

    def __init__(self, transforms: tuple[Transform, ...], angular: tuple[AngularTransform, ...] = ()) -> None:
        self.transforms = transforms
        self.angular = angular
        self._chunks: list[Array] = []
        self._n = 0
        self._established: Established | None = None

    @property
    def n(self) -> int:
        """Number of scores so far."""
        return self._n

    @property
    def scores(self) -> Array:
        """All scores so far (n,), in the order in which they were drawn."""
        if len(self._chunks) > 1:
            self._chunks = [np.concatenate(self._chunks)]
        return self._chunks[0] if self._chunks else np.empty(0)

    def update(self, scores: npt.ArrayLike) -> None:
        """Take in further scores, in the order drawn; ValueError for one that is not a number in [0, 1]."""
        # A copy: what is given may be a view of a large buffer.
        values = check_scores(scores).copy()
        self._chunks.append(values)
        self._n += values.size
        self._established = None

    @property
    def established(self) -> Established:
        """What the scores seen so far establish."""
        if self._established is None:
            self._established = self.established_if_perfect(0)
        return self._established

    def established_if_perfect(self, further: int) -> Established:
        """The same after `further` more scores of 1. No continuation can do better."""
        lowers = [transform.lower(self.scores, further) for transform in self.transforms]
        angular = tuple(transform.bound(self.scores, further) for transform in self.angular)
        return Established(Moments(self.transforms, np.asarray(lowers)), angular)
