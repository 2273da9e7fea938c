import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from service.psm.adversarial import perturb

MIX = torch.randn(3 * 8 * 8, 16, generator=torch.Generator().manual_seed(0))


def units(z: Tensor, sigma: Tensor) -> Tensor:
    """A linear encoder."""
    return F.normalize(z.flatten(1) @ MIX, dim=1)


def attacked(sigma: float) -> tuple[Tensor, Tensor, Tensor]:
    """200 pictures, their clean features, and the perturbations."""
    gen = torch.Generator().manual_seed(1)
    x, levels = torch.rand(200, 3, 8, 8, generator=gen), torch.full((200,), sigma)
    clean = units(x, levels)
    return x, clean, perturb(units, x, levels, clean, gen) - x


def test_perturbations_stay_within_their_radii_and_some_pictures_stay_clean() -> None:
    _, _, delta = attacked(0.5)
    largest, length = delta.abs().flatten(1).amax(1), delta.flatten(1).norm(dim=1)
    assert 0.2 < float((length == 0).float().mean()) < 0.4
    # l_inf up to 20/255, or l2 up to 2.5.
    assert bool(((largest <= 20 / 255 + 1e-5) | (length <= 2.5 + 1e-4)).all())
    assert float(length.max()) <= 2.5 + 1e-4


def test_features_go_away_or_towards_the_picture_most_like_it() -> None:
    x, clean, delta = attacked(0.5)
    length = delta.flatten(1).norm(dim=1)
    touched = length > 0.5
    moved = units(x + delta, torch.zeros(()))
    gen = torch.Generator().manual_seed(2)
    random = F.normalize(torch.randn(x.shape, generator=gen).flatten(1), dim=1) * length[:, None]
    by_chance = units(x + random.view_as(x), torch.zeros(()))
    nearest = clean[(clean @ clean.T).fill_diagonal_(-1).argmax(1)]

    def cosines(features: Tensor, others: Tensor) -> Tensor:
        return (features * others).sum(1)[touched]

    away = cosines(by_chance, clean) - cosines(moved, clean)
    towards = cosines(moved, nearest) - cosines(by_chance, nearest)
    # Each picture has one of the two aims.
    assert float((torch.maximum(away, towards) > 0).float().mean()) > 0.95
    assert 0.25 < float((towards > 0.005).float().mean()) < 0.75


def test_little_noise_is_left_alone() -> None:
    assert not attacked(0.3)[2].any()
