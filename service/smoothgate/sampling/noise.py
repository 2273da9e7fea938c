"""Gaussian noise that can be replayed sample by sample.

Sample i of a seed is a function of (seed, i) alone, by a counter-based generator (Salmon et al. 2011,
"Parallel random numbers: as easy as 1, 2, 3"). It does not depend on its batch or on the samples drawn before
it. All new noise comes from `GENERATOR`, which gives the same noise on every device and with every version of
PyTorch, up to the rounding of logarithms and cosines. So any certificate can be replayed on a CPU.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

SEED_BITS = 128

#: Seed and number of a sample: in [0, 2^128) and [0, 2^64).
SampleId = tuple[int, int]

# Stream k of a seed is its samples from k * 2^32 on.
_STREAM = 2**32


def fresh_seed() -> int:
    """A 128-bit seed from the operating system's entropy. Never taken from a client."""
    return secrets.randbits(SEED_BITS)


def sample_number(sample: int, n_select: int) -> int:
    """The number, under its seed, of sample `sample` of a picture, counted over both of its splits.

    Selection draws from stream 0 and certification from stream 1. So neither split moves when the size of the
    other changes.
    """
    return sample if sample < n_select else _STREAM + sample - n_select


def sample_numbers(n_select: int, streams: int) -> Iterator[int]:
    """The numbers of all samples of a picture, in the order drawn.

    Args:
        n_select: samples that choose t.
        streams: as `NoiseRecord.streams`.
    """
    if streams == 1:
        return count()
    return (sample_number(sample, n_select) for sample in count())


class NoiseGenerator(Protocol):
    """A generator of standard normal samples.

    Attributes:
        name: what certificates call it. It describes the generator well enough to write it again.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    def fill(self, out: Tensor, samples: Sequence[SampleId]) -> None:
        """Fill row r of `out` (B, ...) float32, contiguous, with sample `samples[r]` of N(0, I)."""
        ...


class NumpyNoise:
    """Philox4x64 and the ziggurat of NumPy, for certificates of earlier releases.

    Nothing new is drawn with it: NumPy does not promise that its next version draws the same normal numbers.
    """

    name = "numpy.random.Philox(key=seed, counter=[0, 0, index, 0]).standard_normal(float32)"

    def fill(self, out: Tensor, samples: Sequence[SampleId]) -> None:
        """As `NoiseGenerator.fill`. The noise is drawn on the CPU and copied to any other device."""
        rows = np.empty(out.shape, np.float32) if out.device.type != "cpu" else out.numpy()
        for row, (seed, index) in zip(rows, samples, strict=True):
            philox = np.random.Philox(key=seed, counter=[0, 0, index, 0])
            np.random.Generator(philox).standard_normal(dtype=np.float32, out=row)
        if out.device.type != "cpu":
            out.copy_(torch.from_numpy(rows))


class PhiloxNoise:
    """Philox4x32 with ten rounds, then Box-Muller, in tensor operations that run on every device of PyTorch.

    Block b of a sample is Philox with the lower 64 bits of the seed as its key and the counter (b, index
    modulo 2^32, bits 64 to 95 of the seed, bits 96 to 127 xor index / 2^32). Its four words are two pairs
    (u, v); a pair gives sqrt(-2 ln((u + 1) / 2^32)) times cosine and sine of 2 pi v / 2^32.
    """

    name = (
        "Philox4x32-10(key=seed[0:64], counter=[block, index[0:32], seed[64:96], seed[96:128]^index[32:64]]),"
        " Box-Muller in float32 on (u+1)/2^32 and v/2^32"
    )

    def fill(self, out: Tensor, samples: Sequence[SampleId]) -> None:
        """As `NoiseGenerator.fill`. Only seeds and numbers are copied to the device. Nothing waits for it."""
        words = torch.tensor([_words(seed, index) for seed, index in samples], dtype=torch.int64)
        if out.device.type == "cuda":
            words = words.pin_memory()
        counters = words.to(out.device, non_blocking=True)
        flat = out.view(len(out), -1)
        blocks = -(-flat.shape[1] // 4)
        block = torch.arange(blocks, device=out.device)[None]
        index, c2, c3, k0, k1 = (counters[:, i, None] for i in range(5))
        x = philox([block + 0 * index, index + 0 * block, c2 + 0 * block, c3 + 0 * block], k0, k1)
        values = torch.stack([*_box_muller(x[0], x[1]), *_box_muller(x[2], x[3])], 2)
        flat.copy_(values.view(len(out), -1)[:, : flat.shape[1]])


_LOW = 0xFFFFFFFF


def _words(seed: int, index: int) -> list[int]:
    high = index >> 32
    return [index & _LOW, (seed >> 64) & _LOW, (seed >> 96) ^ high, seed & _LOW, (seed >> 32) & _LOW]


def philox(counter: list[Tensor], k0: Tensor, k1: Tensor) -> list[Tensor]:
    """Philox4x32-10 (Salmon et al. 2011, section 3.3): four random words from four words of counter and two
    of key. Each word is an int64 tensor that holds an unsigned 32-bit number.
    """
    x0, x1, x2, x3 = counter
    for _ in range(10):
        # int64 wraps on overflow. Bits above bit 63 are never needed, and the mask removes the shift's sign
        # bits.
        p0, p1 = 0xD2511F53 * x0, 0xCD9E8D57 * x2
        x0, x1, x2, x3 = (
            ((p1 >> 32) & _LOW) ^ x1 ^ k0,
            p1 & _LOW,
            ((p0 >> 32) & _LOW) ^ x3 ^ k1,
            p0 & _LOW,
        )
        k0, k1 = (k0 + 0x9E3779B9) & _LOW, (k1 + 0xBB67AE85) & _LOW
    return [x0, x1, x2, x3]


def _box_muller(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    length = (-2 * ((u + 1).double() / 2**32).log()).sqrt().float()
    angle = (v.double() * (2 * math.pi / 2**32)).float()
    return length * angle.cos(), length * angle.sin()


#: The generator of all new noise.
GENERATOR: NoiseGenerator = PhiloxNoise()
_GENERATORS = (GENERATOR, NumpyNoise())


def generator_named(name: str) -> NoiseGenerator:
    """The generator that a certificate names.

    Raises:
        ValueError: no generator has that name.
    """
    for generator in _GENERATORS:
        if generator.name == name:
            return generator
    raise ValueError(f"unknown noise generator: {name}")
