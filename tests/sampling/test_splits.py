import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from smoothgate.certify.statement import Terms, certify
from smoothgate.sampling.draw import generator_noise
from smoothgate.sampling.splits import draw_splits, robustness_scores
from smoothgate.vision import Layout

SHAPE = (3, 4, 4)
X = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))


def test_the_direction_is_of_the_first_split_and_the_scores_are_of_the_second() -> None:
    seen: list[Tensor] = []

    def units(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        seen.append(z.clone())
        return F.normalize(z.flatten(1), dim=1)

    noise = generator_noise(torch.Generator().manual_seed(1))
    splits = draw_splits(units, X, 0.3, noise, 10, 25, batch=8)
    rows = F.normalize(torch.cat(seen).flatten(1), dim=1)
    assert len(torch.unique(rows, dim=0)) == len(rows) == 35
    t = F.normalize(rows[:10].sum(0), dim=0)
    torch.testing.assert_close(splits.direction, t)
    torch.testing.assert_close(torch.tensor(splits.certification_scores), (1 + rows[10:] @ t) / 2)
    # The first sample has none before it.
    before = [F.normalize(rows[:i].sum(0), dim=0) for i in range(1, 10)]
    expected = [(1 + float(rows[i] @ t)) / 2 for i, t in enumerate(before, start=1)]
    assert splits.selection_scores == pytest.approx(expected, abs=1e-6)
    assert not splits.direction.requires_grad


def test_the_statement_is_made_of_both_splits() -> None:
    def units(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        return F.normalize(z.flatten(1), dim=1)

    splits = draw_splits(units, X, 0.1, generator_noise(torch.Generator()), 10, 100, batch=64)
    terms = Terms(sigma=0.1, alpha=0.001, eps=(0.05,))
    scores = splits.selection_scores, splits.certification_scores
    assert splits.statement(terms) == certify(terms, *scores)
    assert splits.statement(terms, 1000) == certify(terms, *scores, budget=1000)
    assert splits.statement(terms, 1000) != splits.statement(terms)


def test_the_score_is_taken_against_the_mean_direction_of_other_samples() -> None:
    """Features that are one of two orthogonal directions: t lies between them, and s = (1 + cos 45) / 2."""
    seen: list[Tensor] = []

    def units(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        seen.append(z.clone())
        assert sigma.tolist() == [0.5] * len(z)
        first = (torch.arange(len(z)) % 2 == 0).float()
        return torch.stack([first, 1 - first], 1)

    scores = robustness_scores(units, torch.full((2, 3, 16, 16), 0.5), [0.5], seed=1)
    assert scores == {"0.5": pytest.approx((1 + 0.5**0.5) / 2)}
    drawn = torch.cat(seen).flatten(1)
    assert len(torch.unique(drawn, dim=0)) == len(drawn) == 2 * (64 + 64)
    assert float((drawn - 0.5).std()) == pytest.approx(0.5, rel=0.02)
