import random

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from smoothgate.certify.statement import Target, Terms, certify
from smoothgate.errors import Unacceptable
from smoothgate.sampling.certifier import Certifier
from smoothgate.sampling.selection import scores_against, select

N_SELECT, BUDGET = 20, 100
TERMS = Terms(sigma=0.1, alpha=0.001, eps=(0.05,))
UNITS = F.normalize(
    torch.randn(N_SELECT + BUDGET, 16, generator=torch.Generator().manual_seed(0)) + 0.5, dim=1
)


def parts(first: int, samples: Tensor, size: int) -> list[tuple[int, Tensor]]:
    return [(first + at, samples[at : at + size]) for at in range(0, len(samples), size)]


def selected(terms: Terms = TERMS) -> Certifier:
    certifier = Certifier(terms, N_SELECT, BUDGET)
    scores = certifier.select(0, UNITS[:N_SELECT])
    assert scores is not None
    certifier.begin(scores.numpy())
    return certifier


@pytest.mark.parametrize("seed", range(3))
def test_selection_in_any_order_of_its_parts_gives_what_samples_in_order_give(seed: int) -> None:
    certifier = Certifier(TERMS, N_SELECT, BUDGET)
    shuffled = parts(0, UNITS[:N_SELECT], 3)
    random.Random(seed).shuffle(shuffled)
    returned = [certifier.select(first, part) for first, part in shuffled]
    assert [each for each in returned[:-1] if each is not None] == []
    assert returned[-1] is not None
    assert certifier.direction is None
    t, scores = select(torch.split(UNITS[:N_SELECT], 3))
    begun = certifier.begin(returned[-1].numpy())
    assert torch.equal(begun, t)
    assert certifier.direction is begun
    assert certifier.result("budget").selection_scores == scores


def test_scores_in_any_order_are_those_of_the_samples_in_order() -> None:
    certifier = selected()
    assert certifier.direction is not None
    scores = torch.tensor(scores_against(certifier.direction, [UNITS[N_SELECT:]]), dtype=torch.float64)
    shuffled = parts(N_SELECT, scores, 7)
    random.Random(0).shuffle(shuffled)
    reasons = [certifier.update(first, part.numpy()) for first, part in shuffled]
    assert reasons == [None] * (len(shuffled) - 1) + ["budget"]
    result = certifier.result("budget")
    assert result.rule.scores.tolist() == scores.tolist()
    assert result.rule.statement() == certify(TERMS, result.selection_scores, scores.numpy())


def test_scores_wait_for_those_before_them() -> None:
    certifier = selected()
    assert certifier.n_certify == 0
    certifier.update(N_SELECT + 5, np.full(5, 0.5))
    assert certifier.n_certify == 0
    certifier.update(N_SELECT, np.full(5, 0.5))
    assert certifier.n_certify == 10


def test_it_says_when_the_target_is_met() -> None:
    certifier = selected(Terms(sigma=1.0, alpha=0.5, eps=(0.01,), target=Target(0.5, 0.01)))
    assert certifier.update(N_SELECT, np.full(10, 0.99)) is None
    assert certifier.update(N_SELECT + 10, np.full(40, 0.99)) == "certified"


def test_samples_that_cancel_out_are_unacceptable() -> None:
    certifier = Certifier(TERMS, 2, BUDGET)
    scores = certifier.select(0, torch.stack([UNITS[0], -UNITS[0]]))
    assert scores is not None
    with pytest.raises(Unacceptable):
        certifier.begin(scores.numpy())
