import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from smoothgate_lab.psm_training import losses


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


def test_little_noise_asks_for_the_clean_feature_and_much_noise_for_steadiness() -> None:
    sigma = torch.tensor([0.0, 0.125, 0.25, 0.375, 0.5, 1.0])
    fidelity, steadiness = losses.joint_fidelity(sigma), losses.joint_steadiness(sigma)
    assert fidelity.tolist() == pytest.approx([2, 2, 2, 4 / 3, 1, 1])
    assert steadiness.tolist() == pytest.approx([0, 1 / 16, 1 / 4, 9 / 16, 1, 1])
    units = F.normalize(torch.randn(6, 10), dim=1)
    clean = units * torch.tensor([1, -1, 1, 1, 1, -1.0])[:, None]
    assert float(losses.rb(units, clean, fidelity)) == pytest.approx((2 * 2 + 2 * 1) / 6)
    twice = torch.cat([units, clean])
    assert float(losses.consistency(twice, steadiness)) == pytest.approx((2 / 16 + 2 * 1) / 6)


def test_twice_rb_less_consistency_is_the_distance_of_the_mean_feature() -> None:
    """In expectation over independent noises: here of all pairs of five noises of three pictures."""
    gen = torch.Generator().manual_seed(0)
    clean = F.normalize(torch.randn(3, 10, generator=gen), dim=1)
    noisy = F.normalize(clean[None] + torch.randn(5, 3, 10, generator=gen) / 3, dim=2)
    found = []
    for first in noisy:
        for second in noisy:
            pair = torch.cat([first, second])
            found.append(float(2 * losses.rb(pair, clean.repeat(2, 1)) - losses.consistency(pair)))
    expected = float((noisy.mean(0) - clean).square().sum(1).mean())
    assert sum(found) / len(found) == pytest.approx(expected, abs=1e-5)


def test_the_variance_is_given_away_only_where_noise_is_little_and_never_wholly() -> None:
    sigma = torch.linspace(0, 1, 101)
    fidelity, steadiness = losses.served_fidelity(sigma), losses.served_steadiness(sigma)
    assert (float(fidelity[25]), float(steadiness[25])) == pytest.approx((6, -2.25))
    assert (float(fidelity[50]), float(steadiness[50])) == pytest.approx((1, 1))
    assert bool((steadiness.diff() >= -1e-6).all())
    # What is left of the variance, half of it in rb and all of it in consistency, beside the bias.
    assert bool(((fidelity / 2 + steadiness) / (fidelity / 2) > 0.2).all())


def test_whitened_channels_have_spread_1_in_every_direction() -> None:
    gen = torch.Generator().manual_seed(0)
    mix = torch.randn(6, 6, generator=gen) * torch.tensor([10.0, 5, 2, 1, 0.7, 0.5])
    units = (torch.randn(4000, 6, generator=gen) @ mix.T).view(400, 60)
    white = (units.view(-1, 6) @ losses.whitening(torch.split(units, 100), 6)).double()
    moment = white.T @ white / len(white)
    torch.testing.assert_close(moment, torch.diag(moment.diag()), atol=1e-3, rtol=0)
    # Directions of less than a hundredth of the mean spread count as rounding, so they get less than 1.
    assert 0.9 < float(moment.diag().max()) <= 1
    assert float(moment.diag().sort().values[2]) > 0.5


def test_detail_sees_a_faint_direction_that_rb_hardly_sees() -> None:
    gen = torch.Generator().manual_seed(0)
    units = (torch.randn(32, 10, 2, generator=gen) * torch.tensor([1.0, 0.2])).repeat(2, 1, 1)
    clean = F.normalize(units.flatten(1), dim=1)
    whitening = losses.whitening([clean], 2)
    wrong = (units * torch.tensor([1.0, 0.0])).flatten(1)
    wrong = F.normalize(wrong, dim=1)
    assert float(losses.rb(wrong, clean)) < 0.04
    assert 0.3 < float(losses.detail(wrong, clean, whitening, torch.ones(32))) < 0.6
    assert float(losses.detail(clean, clean, whitening, torch.ones(32))) == 0
    # Opposite errors of two noises: the mean is right, and a quarter of the variance is left.
    error = 0.01 * torch.randn(32, 20, generator=gen)
    biased, steady = clean + error.repeat(2, 1), clean + torch.cat([error, -error])
    bias = float(losses.detail(biased, clean, whitening, torch.ones(32)))
    assert float(losses.detail(steady, clean, whitening, torch.ones(32))) == pytest.approx(
        -0.5 * bias, rel=1e-3
    )


def test_statistics_see_mean_and_spread_of_a_channel_and_nothing_else() -> None:
    clean, std = torch.randn(2, 36, 5), torch.full((5,), 2.0)
    assert float(losses.statistics(clean.flip(1), clean, std)) == pytest.approx(0, abs=1e-10)
    assert float(losses.statistics(clean + 1, clean, std)) == pytest.approx(0.25, rel=1e-4)
    assert float(losses.statistics(2 * clean, clean, std)) > 0.1


def test_identity_is_in_units_of_the_channels() -> None:
    clean = torch.randn(2, 36, 5)
    assert float(losses.identity(clean + 3, clean, torch.full((5,), 3.0))) == pytest.approx(1, rel=1e-4)
