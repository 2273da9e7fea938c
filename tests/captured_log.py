"""What this package logs, as data."""

from collections.abc import Iterator
from contextlib import contextmanager

from structlog.testing import LogCapture
from structlog.typing import EventDict

from smoothgate import logs


@contextmanager
def captured() -> Iterator[list[EventDict]]:
    """The events that are logged meanwhile, of all levels; nothing else becomes of them."""
    before, capture = list(logs.PROCESSORS), LogCapture()
    logs.PROCESSORS[:] = [capture]
    try:
        yield capture.entries
    finally:
        logs.PROCESSORS[:] = before
