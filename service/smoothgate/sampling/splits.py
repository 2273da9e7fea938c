"""Both splits of a canvas drawn one after the other: what serving does in batches of many requests, done for
one canvas alone. Replay, calibration, evaluation and benchmarks use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from smoothgate.certify.statement import Statement, Terms, certify
from smoothgate.sampling.draw import NoiseSource, Units, draw, generator_noise
from smoothgate.sampling.selection import scores_against, select
from smoothgate.vision import Layout


@dataclass(frozen=True, slots=True, eq=False)
class Splits:
    """What the samples of one canvas gave.

    Attributes:
        direction: t (T * D) float32, on the encoder's device.
        selection_scores: of the samples that chose t.
        certification_scores: of the fresh samples, in the order drawn.
    """

    direction: Tensor
    selection_scores: list[float]
    certification_scores: list[float]

    def statement(self, terms: Terms, budget: int | None = None) -> Statement:
        """What they certify. The bets are chosen for `budget` samples; None: for as many as there are."""
        return certify(terms, self.selection_scores, self.certification_scores, budget)


@torch.no_grad()
def draw_splits(
    units: Units,
    x: Tensor,
    sigma: float,
    noise: NoiseSource,
    n_select: int,
    n_certify: int,
    *,
    batch: int,
    layout: Layout = (),
) -> Splits:
    """Choose t on `n_select` noisy copies of a canvas, and score `n_certify` fresh ones against it.

    Args:
        units: the encoder.
        x: (3, H, W) on the encoder's device.
        sigma: standard deviation of the noise.
        noise: source of the noise: first of the selection samples, then of the certification samples.
        n_select, n_certify: sizes of the splits.
        batch: most copies that are encoded at a time.
        layout: of the canvas.

    Raises:
        Unacceptable: the selection samples have no common direction.
    """
    t, selection_scores = select(draw(units, x, sigma, noise, n_select, batch=batch, layout=layout))
    fresh = draw(units, x, sigma, noise, n_certify, batch=batch, layout=layout)
    return Splits(t, selection_scores, scores_against(t, fresh))


def robustness_scores(
    units: Units, pictures: Tensor, sigmas: Sequence[float], seed: int, n: int = 64, layout: Layout = ()
) -> dict[str, float]:
    """Gaussian robustness score by sigma: mean of s = E[(1 + <u(x + d), t>) / 2] over pictures, a point
    estimate.

    Args:
        units: the encoder.
        pictures: canvases (N, 3, H, W), on the encoder's device.
        sigmas: noise levels.
        seed: of the noise.
        n: noise samples that choose t, and as many fresh ones that are scored.
        layout: of the canvases.
    """
    noise = generator_noise(torch.Generator().manual_seed(seed))
    scores = {}
    for sigma in sigmas:
        total = 0.0
        for x in pictures:
            splits = draw_splits(units, x, sigma, noise, n, n, batch=n, layout=layout)
            total += sum(splits.certification_scores) / n
        scores[f"{sigma:g}"] = total / len(pictures)
    return scores
