"""Gaussian noise that can be replayed sample by sample.

Sample i of a seed is a function of (seed, i) alone: counter-based Philox4x64 (Salmon et al. 2011) with the
seed as its key and i in the high half of its counter. It does not matter which batch a sample was in, or
whether it was drawn.
"""

from __future__ import annotations

import secrets

import numpy as np
import numpy.typing as npt

GENERATOR = "numpy.random.Philox(key=seed, counter=[0, 0, index, 0]).standard_normal(float32)"
SEED_BITS = 128


def fresh_seed() -> int:
    """A 128-bit seed from the operating system's entropy. Never taken from a client."""
    return secrets.randbits(SEED_BITS)


def draw_into(out: npt.NDArray[np.float32], seed: int, index: int) -> None:
    """Fill `out` (any shape, C-contiguous) with sample `index` of N(0, I) under `seed`.

    Args:
        out: float32, overwritten.
        seed: in [0, 2^128).
        index: number of the sample, in [0, 2^64).
    """
    philox = np.random.Philox(key=seed, counter=[0, 0, index, 0])
    np.random.Generator(philox).standard_normal(dtype=np.float32, out=out)
