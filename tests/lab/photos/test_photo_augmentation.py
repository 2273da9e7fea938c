from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from smoothgate_lab.photos.photo_augmentation import cut_out, mixed, shifted, turned

Change = Callable[[Tensor, torch.Generator], Tensor]


def _gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("change", [cut_out, mixed, shifted, turned])
def test_a_change_depends_on_the_generator_alone_and_stays_in_the_range(change: Change) -> None:
    x = torch.rand(32, 3, 32, 32, generator=_gen())
    first, again, other = change(x, _gen(1)), change(x, _gen(1)), change(x, _gen(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == x.shape
    assert first.min() >= -1e-6
    assert first.max() <= 1 + 1e-6


def test_a_shift_moves_all_channels_together_and_mirrors_half() -> None:
    column = torch.linspace(0, 1, 32)
    ramp = column.expand(400, 3, 32, 32)
    out = shifted(ramp, _gen())
    assert torch.equal(out[:, 0], out[:, 1])
    falling = out[:, 0, 0, 8] > out[:, 0, 0, 24]
    assert 0.4 < falling.float().mean() < 0.6


def test_one_square_is_cut_out() -> None:
    out = cut_out(torch.zeros(16, 3, 32, 32), _gen(), side=8)
    assert torch.equal((out == 0.5).sum((2, 3)), torch.full((16, 3), 64))


def test_a_mixture_shows_more_of_its_own_picture() -> None:
    x = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 3, 4, 4) / 8
    out = mixed(x, _gen())
    assert ((out - x).abs() <= 0.5).all()
    assert ((out == x).all((1, 2, 3))).any()
    assert not torch.equal(out, x)
