import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from smoothgate_lab.psm_training import vote_losses

ASKED = torch.tensor([[True, True, False], [True, False, False]])


def spoken(rows: int, seed: int) -> Tensor:
    """Log-probabilities of three next tokens out of five."""
    return torch.randn(rows, 3, 5, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)


def test_the_distance_is_that_of_the_distributions_over_the_answer() -> None:
    clean, noisy = spoken(2, 0), spoken(2, 1)
    found = vote_losses.distribution(noisy, clean, ASKED)
    each = F.kl_div(noisy, clean, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(found, torch.stack([each[0, 0] + each[0, 1], each[1, 0]]))
    torch.testing.assert_close(vote_losses.distribution(clean, clean, ASKED), torch.zeros(2))


def test_its_gradient_is_that_of_the_cross_entropy() -> None:
    clean, noisy = spoken(2, 0), spoken(2, 1).requires_grad_()
    (found,) = torch.autograd.grad(vote_losses.distribution(noisy, clean, ASKED).sum(), noisy)
    torch.testing.assert_close(found, -clean.exp() * ASKED[..., None])


def test_a_hopeless_sample_pulls_nowhere() -> None:
    clean, noisy = torch.zeros(1, 1, 2), torch.zeros(1, 1, 2)
    clean[..., 1], noisy[..., 0] = -torch.inf, -1000.0
    clean = clean.clamp(min=-100)
    noisy.requires_grad_()
    (found,) = torch.autograd.grad(
        vote_losses.distribution(noisy, clean, torch.ones(1, 1, dtype=torch.bool)).sum(), noisy
    )
    assert not found.any()


def test_agreement_is_that_of_jeong_and_shin() -> None:
    first, second = spoken(2, 2), spoken(2, 3)
    found = vote_losses.agreement(torch.cat([first, second]), ASKED)
    mean = (first.exp() + second.exp()) / 2
    apart = (
        F.kl_div(first, mean, reduction="none").sum(-1) + F.kl_div(second, mean, reduction="none").sum(-1)
    ) / 2
    entropy = -(mean * mean.log()).sum(-1)
    torch.testing.assert_close(found, ((apart + 0.5 * entropy) * ASKED).sum(1))


def test_two_noises_that_are_sure_of_the_same_agree() -> None:
    sure = torch.full((4, 3, 5), -100.0)
    sure[..., 2] = 0.0
    assert float(vote_losses.agreement(sure, ASKED).max()) == pytest.approx(0, abs=1e-6)
