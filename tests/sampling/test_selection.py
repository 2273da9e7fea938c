import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from smoothgate.errors import Unacceptable
from smoothgate.sampling.selection import Selection, scores_against, select

UNITS = F.normalize(torch.randn(12, 16, generator=torch.Generator().manual_seed(0)) + 0.5, dim=1)


@pytest.mark.parametrize("sizes", [(12,), (1,) * 12, (5, 1, 6)])
def test_how_samples_are_batched_changes_nothing(sizes: tuple[int, ...]) -> None:
    t, scores = select(torch.split(UNITS, list(sizes)))
    torch.testing.assert_close(t, F.normalize(UNITS.sum(0), dim=0))
    expected = [(1 + float(UNITS[i] @ F.normalize(UNITS[:i].sum(0), dim=0))) / 2 for i in range(1, 12)]
    assert scores == pytest.approx(expected, abs=1e-6)


def test_a_sample_without_earlier_ones_has_no_score() -> None:
    assert Selection().add(UNITS[:3]).isnan().tolist() == [True, False, False]


def test_samples_that_cancel_out_have_no_direction() -> None:
    with pytest.raises(Unacceptable) as caught:
        select([torch.cat([UNITS, -UNITS])])
    assert caught.value.code == "no_direction"
    with pytest.raises(Unacceptable):
        Selection().direction()


def test_scores_are_kept_in_the_unit_interval() -> None:
    t = torch.zeros(16)
    t[0] = 1.0
    beyond = torch.stack([1.0000001 * t, -1.0000001 * t, 0 * t])
    assert scores_against(t, torch.split(beyond, 2)) == [1.0, 0.0, 0.5]


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_samples_that_are_no_numbers_have_no_direction(wrong: float) -> None:
    broken = UNITS.clone()
    broken[3, 5] = wrong
    with pytest.raises(Unacceptable) as caught:
        select([broken])
    assert caught.value.code == "no_direction"
