"""A browser for the tests of a module, and the gate with a page."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.playground.browser import chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found
