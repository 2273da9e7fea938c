import pytest
import torch

from smoothgate.psm.mapper import ResidualMapper, ResidualMapperConfig


def _mapper(grid: tuple[int, int] = (4, 6)) -> ResidualMapper:
    torch.manual_seed(0)
    mapper = ResidualMapper(ResidualMapperConfig(12, grid, width=16, heads=2, noise_width=8))
    for parameter in mapper.parameters():  # the last layers start at zero
        torch.nn.init.normal_(parameter, std=0.2)
    return mapper.eval().requires_grad_(False)


def test_is_exactly_the_identity_at_sigma_0() -> None:
    tokens = torch.randn(3, 24, 12)
    assert torch.equal(_mapper()(tokens, torch.zeros(3)), tokens)


def test_changes_tokens_more_at_larger_sigma() -> None:
    tokens, mapper = torch.randn(1, 24, 12), _mapper()
    changes = [float((mapper(tokens, torch.tensor([s])) - tokens).norm()) for s in (0.01, 0.1, 0.5)]
    assert 0 < changes[0] < changes[1] < changes[2]


def test_an_untrained_mapper_is_the_identity() -> None:
    tokens = torch.randn(2, 24, 12)
    mapper = ResidualMapper(ResidualMapperConfig(12, (4, 6), width=16, heads=2, noise_width=8))
    assert torch.equal(mapper(tokens, torch.tensor([0.2, 0.9])), tokens)


def test_each_sample_is_mapped_by_its_own_sigma() -> None:
    tokens, sigma, mapper = torch.randn(3, 24, 12), torch.tensor([0.1, 0.5, 0.9]), _mapper()
    together = mapper(tokens, sigma)
    for i in range(3):
        torch.testing.assert_close(mapper(tokens[i : i + 1], sigma[i : i + 1])[0], together[i])


@pytest.mark.parametrize("tokens", [23, 24, 25])
def test_takes_a_class_token_or_a_missing_patch(tokens: int) -> None:
    mapper = _mapper()
    v = torch.randn(1, tokens, 12)
    assert mapper(v, torch.tensor([0.5])).shape == v.shape


def test_the_convolution_sees_neighbours_on_the_grid_and_leaves_the_class_token_alone() -> None:
    block = _mapper().blocks[0]
    assert isinstance(block, torch.nn.ModuleList)
    mixing = block[1]
    x = torch.randn(1, 25, 16)
    level = torch.randn(1, 8)
    moved = x.clone()
    moved[0, 1 + 6] += torch.randn(16)  # row 1, column 0
    changed = (mixing(moved, level) - mixing(x, level)).abs().sum(-1)[0] > 1e-6
    assert torch.nonzero(changed).flatten().tolist() == [1, 2, 7, 8, 13, 14]
