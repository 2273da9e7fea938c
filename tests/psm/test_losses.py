import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from service.psm import losses


def test_the_diffusion_loss_is_1_for_an_untrained_denoiser_of_unit_pictures() -> None:
    """EDM's weight makes every noise level worth the same: the error of the best linear estimate is 1."""
    gen = torch.Generator().manual_seed(0)
    x = 0.5 + 0.3 * torch.randn(4, 3, 64, 64, generator=gen)
    for level in (0.1, 0.5, 1.0):
        sigma = torch.full((4,), level)
        z = x + level * torch.randn(x.shape, generator=gen)
        linear = 0.5 + (z - 0.5) * 0.09 / (0.09 + level**2)
        assert float(losses.diffusion(linear, x, sigma)) == pytest.approx(1, rel=0.05)
    assert float(losses.diffusion(x, x, torch.zeros(4))) == 0


def test_mse_is_the_squared_distance() -> None:
    x = torch.zeros(2, 3, 4, 4)
    assert float(losses.mse(x + 0.5, x)) == pytest.approx(0.25 * 48)


def test_rb_and_consistency_are_cosines() -> None:
    units = F.normalize(torch.randn(6, 10), dim=1)
    assert float(losses.rb(units, units)) == pytest.approx(0, abs=1e-6)
    assert float(losses.rb(units, -units)) == pytest.approx(2)
    assert float(losses.consistency(torch.cat([units, units]))) == pytest.approx(0, abs=1e-6)
    expected = 1 - float((units[:3] * units[3:]).sum(1).mean())
    assert float(losses.consistency(units)) == pytest.approx(expected)


def test_statistics_see_mean_and_spread_of_a_channel_and_nothing_else() -> None:
    clean, std = torch.randn(2, 36, 5), torch.full((5,), 2.0)
    assert float(losses.statistics(clean.flip(1), clean, std)) == pytest.approx(0, abs=1e-10)
    assert float(losses.statistics(clean + 1, clean, std)) == pytest.approx(0.25, rel=1e-4)
    assert float(losses.statistics(2 * clean, clean, std)) > 0.1


def test_identity_is_in_units_of_the_channels() -> None:
    clean = torch.randn(2, 36, 5)
    assert float(losses.identity(clean + 3, clean, torch.full((5,), 3.0))) == pytest.approx(1, rel=1e-4)
