import pytest
import torch
from torch import Tensor

from smoothgate.sampling.draw import draw, generator_noise, noisy, numbered_noise
from smoothgate.sampling.noise import NoiseGenerator, NumpyNoise, PhiloxNoise
from smoothgate.vision import Layout

SHAPE = (3, 4, 4)
X = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))


class Recording:
    """An encoder that returns its input as features, and remembers how it was called."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.levels: list[float] = []
        self.layouts: set[Layout] = set()

    def __call__(self, z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        self.sizes.append(len(z))
        self.levels += sigma.tolist()
        self.layouts.add(layout)
        return z.flatten(1)


def test_noise_is_scaled_row_by_row_and_added() -> None:
    noise, sigma = torch.randn(2, *SHAPE), torch.tensor([0.5, 2.0])
    expected = torch.stack([X + 0.5 * noise[0], X + 2.0 * noise[1]])
    z = noisy(X, sigma, noise)
    assert torch.equal(z, expected)
    assert z.data_ptr() == noise.data_ptr()


def test_gradients_reach_the_canvas() -> None:
    x = X.clone().requires_grad_()
    z = noisy(x, torch.tensor([0.1, 0.2]), torch.randn(2, *SHAPE))
    (gradient,) = torch.autograd.grad((torch.tensor([1.0, 3.0]).view(-1, 1, 1, 1) * z).sum(), x)
    assert torch.equal(gradient, torch.full(SHAPE, 4.0))


def test_copies_are_drawn_in_batches_with_their_sigma_and_layout() -> None:
    units = Recording()
    noise = generator_noise(torch.Generator().manual_seed(1))
    features = list(draw(units, X, 0.25, noise, 7, batch=3, layout=(2, 2)))
    assert units.sizes == [len(each) for each in features] == [3, 3, 1]
    assert units.levels == [0.25] * 7
    assert units.layouts == {(2, 2)}
    gen = torch.Generator().manual_seed(1)
    for each in features:
        expected = X + 0.25 * torch.randn(len(each), *SHAPE, generator=gen)
        assert torch.equal(each, expected.flatten(1))


@pytest.mark.parametrize("generator", [PhiloxNoise(), NumpyNoise()], ids=["philox", "numpy"])
def test_numbered_noise_does_not_depend_on_the_batches(generator: NoiseGenerator) -> None:
    numbers = [3, 4, 5, 2**32, 2**32 + 1, 8, 9]
    whole = numbered_noise(generator, 5, numbers)((7, *SHAPE))
    source = numbered_noise(generator, 5, numbers)
    assert torch.equal(torch.cat([source((k, *SHAPE)) for k in (2, 4, 1)]), whole)
    expected = torch.empty(7, *SHAPE)
    generator.fill(expected, [(5, number) for number in numbers])
    assert torch.equal(whole, expected)
