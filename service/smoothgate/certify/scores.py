"""Scores: float64 vectors of numbers in [0, 1]."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

#: Relative margin for the rounding errors of a few float64 operations and of scipy's special functions.
MARGIN = 1e-12


def check_scores(scores: npt.ArrayLike) -> Array:
    """The scores as a float64 vector (n,), n >= 1; ValueError if one is not a number in [0, 1]."""
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"scores must be a non-empty vector, got shape {values.shape}")
    # Written so that NaN fails too.
    if not bool(np.all((values >= 0.0) & (values <= 1.0))):
        raise ValueError("every score must be a number in [0, 1]")
    return values
