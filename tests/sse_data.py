"""Server-sent events as tests read them."""

from collections.abc import Iterable


def sse_data(lines: Iterable[str]) -> list[str]:
    """The data of the events; comments, which come while nothing else does, are left out."""
    return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
