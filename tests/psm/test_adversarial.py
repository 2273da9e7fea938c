import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from service.psm.adversarial import perturb

MIX = torch.randn(3 * 8 * 8, 16, generator=torch.Generator().manual_seed(0))


def units(z: Tensor, sigma: Tensor) -> Tensor:
    """A linear encoder."""
    return F.normalize(z.flatten(1) @ MIX, dim=1)


def test_pictures_are_pushed_away_within_their_radii() -> None:
    gen = torch.Generator().manual_seed(1)
    x, sigma = torch.rand(200, 3, 8, 8, generator=gen), torch.full((200,), 0.1)
    clean = units(x, sigma)
    delta = perturb(units, x, sigma, clean, gen) - x
    largest, length = delta.abs().flatten(1).amax(1), delta.flatten(1).norm(dim=1)
    untouched = length == 0
    assert 0.2 < float(untouched.float().mean()) < 0.4
    # l_inf up to 20/255, or l2 up to 2.5.
    assert bool(((largest <= 20 / 255 + 1e-5) | (length <= 2.5 + 1e-4)).all())
    assert float(length.max()) <= 2.5 + 1e-4
    cosine = (units(x + delta, sigma) * clean).sum(1)
    assert float(cosine[~untouched].mean()) < 0.98
    # As far in a random direction changes far less.
    random = F.normalize(torch.randn(x.shape, generator=gen).flatten(1), dim=1) * length[:, None]
    by_chance = (units(x + random.view_as(x), sigma) * clean).sum(1)
    assert float(cosine[~untouched].mean()) < float(by_chance[~untouched].mean()) - 0.005
