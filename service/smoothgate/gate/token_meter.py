"""The tokens of the generations of one vote, those included that end before their answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class TokenMeter:
    """Counts the tokens of a vote.

    Args:
        longest: tokens that one answer may have; None: the request sets no limit.
        spend: called with tokens that were used; with None where nobody knows how many.
    """

    def __init__(self, longest: int | None, spend: Callable[[int | None], None]) -> None:
        self._longest = longest
        self._spend = spend
        self._most = 0
        self._under_way = 0

    @contextmanager
    def under_way(self, generations: int) -> Iterator[None]:
        """So many generations are asked for in the block."""
        self._under_way += generations
        try:
            yield
        finally:
            self._under_way -= generations

    def came(self, tokens: int) -> None:
        """A generation came whole; `tokens`: of its prompt and its answer."""
        self._most = max(self._most, tokens)
        self._spend(tokens)

    @contextmanager
    def settled(self) -> Iterator[None]:
        """Count what is under way when the block ends, which nobody waits for any more.

        vLLM does not say how far such a generation came. It counts as the largest that came whole; where none
        did, as the longest answer that the request allows; where that has no limit, nobody knows.
        """
        try:
            yield
        finally:
            if self._under_way:
                each = self._most or self._longest
                self._spend(None if each is None else each * self._under_way)
