"""Why t is fixed: an encoder that jumps refutes the bound for a reference that moves with the picture."""

import torch
from torch.nn import functional as F  # noqa: N812

from smoothgate.certify.statement import Terms
from smoothgate.sampling.draw import draw, generator_noise
from smoothgate.sampling.splits import draw_splits

SIGMA = 0.5
SHIFT = 0.1


def test_a_reference_that_moves_with_the_picture_breaks_the_bound_and_the_served_direction_does_not() -> None:
    x = torch.full((3, 4, 4), 0.5)
    moved = x + SHIFT / x.numel() ** 0.5

    def units(z: torch.Tensor, sigma: torch.Tensor, layout: object = ()) -> torch.Tensor:
        """(1, 0), but (-1, 0) in a tiny ball around the moved picture, which noise practically never hits."""
        inside = (z - moved).flatten(1).norm(dim=1) < SHIFT / 2
        return F.normalize(torch.stack([1.0 - 2.0 * inside, torch.zeros(len(z))], dim=1), dim=1)

    noise = generator_noise(torch.Generator().manual_seed(0))
    splits = draw_splits(units, x, SIGMA, noise, 64, 512, batch=64)
    bound = splits.statement(Terms(sigma=SIGMA, alpha=0.001, eps=(SHIFT,))).points[0].value
    assert bound > 0.9

    g = torch.cat(list(draw(units, moved, SIGMA, noise, 512, batch=64))).mean(0)
    moving_reference = units(moved[None], torch.zeros(1))[0]
    assert float(g @ splits.direction) >= bound
    assert float(g @ moving_reference) < -0.9
