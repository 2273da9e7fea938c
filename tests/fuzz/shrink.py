"""The least of a request that still fails."""

import json
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

from tests.fuzz.request import Raw, Request

Fails = Callable[[Request | Raw], Awaitable[bool]]


async def shrunk(request: Request | Raw, fails: Fails, seconds: float = 20.0) -> Request | Raw:
    """Leave out what can be left out, the largest pieces first, as long as it fails and there is time."""
    ends = time.monotonic() + seconds
    if not await fails(request):
        return request  # it failed for what came before, or beside
    progress = True
    while progress:
        progress = False
        for smaller in _smaller(request):
            if time.monotonic() > ends:
                return request
            if await fails(smaller):
                request, progress = smaller, True
                break
    return request


def _smaller(request: Request | Raw) -> Iterator[Request | Raw]:
    if isinstance(request, Raw):
        yield from (replace(request, sent=data) for data in _cuts(request.sent))
        return
    try:
        value = json.loads(request.body)
    except (ValueError, RecursionError):
        yield from (replace(request, body=data) for data in _cuts(request.body))
        return
    yield from (replace(request, body=json.dumps(less).encode()) for less in _less(value))


def _cuts(data: bytes) -> Iterator[bytes]:
    size = len(data) // 2
    while size:
        yield from (data[:at] + data[at + size :] for at in range(0, len(data), size))
        size //= 2


def _less(value: Any) -> Iterator[Any]:
    """JSON values with one part less."""
    if isinstance(value, str) and len(value) > 8:
        yield value[: len(value) // 2]
    elif isinstance(value, list):
        yield from (value[:at] + value[at + 1 :] for at in range(len(value)))
        for at, item in enumerate(value):
            yield from ([*value[:at], less, *value[at + 1 :]] for less in _less(item))
    elif isinstance(value, dict):
        yield from ({k: v for k, v in value.items() if k != key} for key in value)
        for key, item in value.items():
            yield from (value | {key: less} for less in _less(item))
