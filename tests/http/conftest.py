"""What only the tests of the routes need."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.whole_service import Gate


@pytest.fixture
def settings(gate: Gate) -> Iterator[Any]:
    """Change settings of the running service for one test."""
    before = gate.runtime.settings

    def change(**fields: Any) -> None:
        gate.runtime.settings = before.model_copy(update=fields)

    yield change
    gate.runtime.settings = before
