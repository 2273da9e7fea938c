"""The stack that the tests of the deployment share, started once."""

from collections.abc import Iterator

import pytest

from tests.deploy.prometheus import Prometheus, scraping
from tests.deploy.stack import Gate, Stack, Vllm, started


@pytest.fixture(scope="package")
def stack(demo_vllm: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two gates in front of one vLLM, ready."""
    folder = tmp_path_factory.mktemp("stack")
    vllm = Vllm(folder, demo_vllm)
    one, two = (
        Gate(folder, {"ENGINE_URL": vllm.url, "STORE": str(folder / name)}) for name in ("one", "two")
    )
    with started(vllm, one, two):
        yield Stack(vllm, (one, two))


@pytest.fixture(scope="package")
def prometheus(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """It scrapes the stack."""
    with scraping(stack, tmp_path_factory.mktemp("prometheus")) as started:
        yield started
