import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from smoothgate.vision import Layout
from smoothgate_lab.psm_training import attacks_through_noise, feature_attacks
from smoothgate_lab.psm_training.feature_attacks import perturb

MIX = torch.randn(3 * 8 * 8, 16, generator=torch.Generator().manual_seed(0))


def units(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
    """A linear encoder."""
    return F.normalize(z.flatten(1) @ MIX, dim=1)


def attacked(sigma: float) -> tuple[Tensor, Tensor, Tensor]:
    """200 pictures, their clean features, and the perturbations."""
    gen = torch.Generator().manual_seed(1)
    x, levels = torch.rand(200, 3, 8, 8, generator=gen), torch.full((200,), sigma)
    clean = units(x, levels)
    return x, clean, perturb(units, x, levels, clean, gen) - x


@pytest.mark.parametrize("share", [0.0, 1.0], ids=["l2", "l_inf"])
def test_perturbations_stay_within_their_radii_and_some_pictures_stay_clean(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attacks_through_noise, "SHARE_L_INF", share)
    _, _, delta = attacked(0.5)
    largest, length = delta.abs().flatten(1).amax(1), delta.flatten(1).norm(dim=1)
    assert 0.2 < float((length == 0).float().mean()) < 0.4
    # Steps that are longer than the radius in all end on its border, if nothing stops them beyond it.
    found, radius = (largest, 20 / 255) if share else (length, 2.5)
    assert 0.9 * radius < float(found.max()) <= radius * (1 + 1e-5)


@pytest.mark.parametrize(
    ("aim", "away", "neighbour"), [("away", 1.0, 0.0), ("neighbour", 0.0, 1.0), ("nearest", 0.0, 0.0)]
)
def test_features_go_where_they_are_pushed(
    aim: str, away: float, neighbour: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_attacks, "_SHARE_AWAY", away)
    monkeypatch.setattr(feature_attacks, "_SHARE_NEIGHBOUR", neighbour)
    x, clean, delta = attacked(0.5)
    length = delta.flatten(1).norm(dim=1)
    touched = length > 0.5
    moved = units(x + delta, torch.zeros(()))
    gen = torch.Generator().manual_seed(2)
    random = F.normalize(torch.randn(x.shape, generator=gen).flatten(1), dim=1) * length[:, None]
    by_chance = units(x + random.view_as(x), torch.zeros(()))
    aims = {
        "away": -clean,
        "neighbour": clean.view(-1, 2, clean.shape[1]).flip(1).flatten(0, 1),
        "nearest": clean[(clean @ clean.T).fill_diagonal_(-1).argmax(1)],
    }
    nearer = ((moved - by_chance) * aims[aim]).sum(1)[touched]
    assert float((nearer > 0).float().mean()) > 0.95
    assert float(nearer.mean()) > 0.005


def test_the_last_picture_of_an_odd_batch_has_no_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_attacks, "_SHARE_AWAY", 0.0)
    monkeypatch.setattr(feature_attacks, "_SHARE_NEIGHBOUR", 1.0)
    gen = torch.Generator().manual_seed(1)
    x, levels = torch.rand(7, 3, 8, 8, generator=gen), torch.full((7,), 0.5)
    assert perturb(units, x, levels, units(x, levels), gen).shape == x.shape


def test_little_noise_is_left_alone() -> None:
    assert not attacked(0.3)[2].any()
