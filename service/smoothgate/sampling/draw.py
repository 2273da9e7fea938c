"""The one way to draw a sample: noise, scale, add, encode.

Noise comes from one of two sources. Certificates need noise that can be replayed sample by sample:
`numbered_noise`. Attacks, training and evaluation take it from a `torch.Generator`: `generator_noise`. What
follows is the same for both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor

from smoothgate.sampling.noise import NoiseGenerator
from smoothgate.vision import Layout


class Units(Protocol):
    """An encoder of noisy canvases: `UnitEncoder.units`, or that function compiled."""

    def __call__(self, z: Tensor, sigma: Tensor, layout: Layout = ...) -> Tensor:
        """Noisy canvases (B, 3, H, W), the sigma (B,) of their noise and their layout -> unit features
        (B, T * D) float32.
        """
        ...


class NoiseSource(Protocol):
    """Where noise comes from. Every call returns the samples that follow those of the call before."""

    def __call__(self, shape: Sequence[int]) -> Tensor:
        """The next `shape[0]` samples of N(0, I): a new tensor of that shape, float32, on the CPU."""
        ...


def generator_noise(gen: torch.Generator) -> NoiseSource:
    """Noise from a generator on the CPU. Its values depend on how samples are divided into calls."""

    def source(shape: Sequence[int]) -> Tensor:
        return torch.randn(tuple(shape), generator=gen)

    return source


def numbered_noise(generator: NoiseGenerator, seed: int, numbers: Iterable[int]) -> NoiseSource:
    """The samples of a seed that have these numbers. Their values do not depend on how they are divided."""
    following = iter(numbers)

    def source(shape: Sequence[int]) -> Tensor:
        noise = torch.empty(tuple(shape))
        generator.fill(noise, [(seed, number) for number in islice(following, shape[0])])
        return noise

    return source


def noisy(x: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    """x + sigma * noise, computed in the memory of the noise. Differentiable in x.

    Args:
        x: canvases (B, 3, H, W), or one canvas (3, H, W) for all rows.
        sigma: standard deviation of the noise of each row (B,).
        noise: samples (B, 3, H, W) of N(0, I). The result takes their place.
    """
    return noise.mul_(sigma.view(-1, 1, 1, 1)).add_(x)


def draw(
    units: Units,
    x: Tensor,
    sigma: float,
    noise: NoiseSource,
    n: int,
    *,
    batch: int,
    layout: Layout = (),
) -> Iterator[Tensor]:
    """Unit features of the next n noisy copies of a canvas, batch by batch (k, T * D). Differentiable in x.

    Args:
        units: the encoder.
        x: (3, H, W) on the encoder's device.
        sigma: standard deviation of the noise.
        noise: source of the noise.
        n: number of copies.
        batch: most copies that are encoded at a time.
        layout: of the canvas.
    """
    for first in range(0, n, batch):
        count = min(batch, n - first)
        levels = torch.full((count,), sigma, device=x.device)
        z = noisy(x, levels, noise((count, *x.shape)).to(x.device))
        yield units(z, levels, layout)
