"""What a vote costs its account, whatever becomes of its generations."""

import pytest

from smoothgate.gate.token_meter import TokenMeter


@pytest.mark.parametrize(
    ("longest", "came", "settled"),
    [(100, [46, 60, 50], [180]), (100, [], [300]), (None, [46], [138]), (None, [], [None])],
    ids=["as the largest", "as the longest", "as the only one", "nobody knows"],
)
def test_what_is_under_way_in_the_end_is_counted(
    longest: int | None, came: list[int], settled: list[int | None]
) -> None:
    spent: list[int | None] = []
    tokens = TokenMeter(longest, spent.append)
    with tokens.under_way(1), tokens.under_way(2), tokens.settled():
        for one in came:
            tokens.came(one)
    assert spent == came + settled


def test_what_came_or_failed_is_not_under_way() -> None:
    spent: list[int | None] = []
    tokens = TokenMeter(100, spent.append)
    with tokens.settled():
        with pytest.raises(ValueError, match="engine"), tokens.under_way(1):
            raise ValueError("engine")
        with tokens.under_way(1):
            pass
        tokens.came(46)
    assert spent == [46]
