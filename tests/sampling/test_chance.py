"""The chance cosine is measured through the PSM at each sigma, and its limit holds for the percentile."""

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

from smoothgate.sampling.chance import CONFIDENCE, FEWEST, chance_figures, upper_limit


def test_the_limit_is_above_the_percentile_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    above = [(upper_limit(rng.random(300).tolist()) or 0.0) >= 0.95 for _ in range(2000)]
    # Six standard deviations of a share of 2,000.
    assert CONFIDENCE - 0.03 <= np.mean(above) <= 0.99


def test_too_few_values_have_no_limit() -> None:
    assert upper_limit([0.0] * (FEWEST // 2 - 1)) is None
    assert upper_limit([0.0] * (FEWEST // 2)) == 0.0
    assert upper_limit([]) is None


def test_noise_and_what_is_done_against_it_are_part_of_the_figure() -> None:
    """An encoder that turns towards one direction as noise grows: unrelated images become alike."""

    def units(z: torch.Tensor, sigma: torch.Tensor, layout: object = ()) -> torch.Tensor:
        features = z.flatten(1) + 5 * sigma[:, None]
        return F.normalize(features, dim=1)

    pictures = torch.randn(200, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    found = chance_figures(units, pictures, [0.01, 1.0], seed=1, copies=32)
    assert set(found) == {"0.01", "1"}
    assert abs(found["0.01"].mean) < 0.2
    assert found["1"].mean > 0.8
    assert found["1"].p95_limit > found["1"].mean > found["0.01"].p95_limit
    assert found["1"].pairs == 100
    assert chance_figures(units, pictures[: FEWEST - 1], [1.0], seed=1, copies=32) == {}
