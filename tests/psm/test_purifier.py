import pytest
import torch

from smoothgate.psm.purifier import LightUNet, LightUNetConfig, pad


@pytest.fixture(scope="module")
def purifier() -> LightUNet:
    torch.manual_seed(0)
    net = LightUNet(LightUNetConfig(width=16, core_width=24, heads=2, noise_width=16))
    for parameter in net.parameters():  # the last layer starts at zero
        torch.nn.init.normal_(parameter, std=0.1)
    return net.eval().requires_grad_(False)


@pytest.mark.parametrize("size", [(48, 48), (30, 44), (57, 33)])
def test_keeps_the_size_of_any_canvas(purifier: LightUNet, size: tuple[int, int]) -> None:
    z = torch.rand(2, 3, *size)
    purified = purifier(z, torch.tensor([0.2, 0.5]))
    assert purified.shape == z.shape
    assert not torch.allclose(purified, z, atol=1e-2)


def test_changes_nothing_without_noise(purifier: LightUNet) -> None:
    z = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(purifier(z, torch.zeros(2)), z, atol=1e-6, rtol=0)


def test_each_sample_is_purified_by_its_own_sigma(purifier: LightUNet) -> None:
    z = torch.rand(3, 3, 32, 32)
    sigma = torch.tensor([0.1, 0.5, 0.9])
    together = purifier(z, sigma)
    for i in range(3):
        torch.testing.assert_close(
            purifier(z[i : i + 1], sigma[i : i + 1])[0], together[i], atol=1e-5, rtol=0
        )
    assert not torch.allclose(purifier(z, sigma.flip(0)), together, atol=1e-3)


def test_an_untrained_purifier_is_about_the_best_linear_shrinkage() -> None:
    """EDM's preconditioning: at first P(z) = mean + (z - mean) * var / (var + sigma^2)."""
    net = LightUNet(LightUNetConfig(width=16, core_width=24, heads=2, noise_width=16))
    z = torch.rand(1, 3, 16, 16)
    expected = 0.5 + (z - 0.5) * 0.09 / (0.09 + 0.25)
    torch.testing.assert_close(net(z, torch.tensor([0.5])).detach(), expected, atol=0.03, rtol=0)


def test_padding_reflects_and_keeps_sizes_that_divide() -> None:
    z = torch.rand(1, 3, 6, 8)
    assert pad(z, 2) is z
    padded = pad(z, 4)
    assert padded.shape == (1, 3, 8, 8)
    torch.testing.assert_close(padded[..., :6, :], z)
    torch.testing.assert_close(padded[..., 6, :], z[..., 4, :])
