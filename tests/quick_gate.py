"""The service in this process in front of a fake vLLM: real encoder, real sampler, answers without a model.

It is for everything that needs only *an* answer. A gate opens in a tenth of a second, so a test that needs
other settings opens one of its own.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Literal, Protocol

import numpy as np
import pytest
import torch
from PIL import Image

from smoothgate.bundled import DEMO
from smoothgate.engine import Engine
from smoothgate.gate.smoother_loading import load_noise_seeds
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.sampling.sampler import Sampler, Worker
from smoothgate.sampling.smoother import Smoother
from smoothgate.settings import Settings
from smoothgate.vision import load
from tests import fake_vllm
from tests.fake_vllm import FakeVllm
from tests.whole_service import SAMPLES, Gate, opened

#: The settings of these gates, where a test names no others.
SETTINGS: dict[str, Any] = {
    "n_select": 16,
    "n_certify": 64,
    # So few samples of four images say something at a small distance only.
    "eps": (0.1, 0.5, 1.0),
    "cache_mib": 0,
    "canary_seconds": 0,
    "shutdown_timeout_seconds": 1,
    "request_timeout_seconds": 60,
}


#: A target that `ENOUGH` samples of a sample picture certify; of `odd_picture` they certify less.
TARGET = {"cosine": 0.75, "eps": 0.1}
ENOUGH = 256


def odd_picture() -> bytes:
    """A seven under 6 x 6 blocks of random colours, unlike what the PSM was trained on: its score is 0.88."""
    colours = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    blocks = Image.fromarray(colours).resize((48, 48), Image.Resampling.NEAREST)
    seven = Image.open(SAMPLES / "seven.png").convert("RGB").resize((48, 48), Image.Resampling.BOX)
    file = io.BytesIO()
    Image.blend(seven, blocks, 0.75).save(file, "PNG")
    return file.getvalue()


class OpenGate(Protocol):
    """Opens a gate, which is closed after the test; `ready`: and waits until it is ready."""

    def __call__(
        self,
        *,
        engine: Engine | Literal["none"] | None = None,
        encoder: UnitEncoder | None = None,
        ready: bool = True,
        **settings: Any,
    ) -> Gate: ...


@pytest.fixture(scope="session")
def demo_encoder() -> UnitEncoder:
    """The bundled model and its PSM, loaded once. Tests must not change it."""
    adapter = load(str(DEMO.model), device="cpu", dtype=torch.float32)
    return UnitEncoder.load(adapter, DEMO.psm)


@pytest.fixture(scope="session")
def shared_fake_vllm() -> Iterator[FakeVllm]:
    with fake_vllm.running() as fake:
        yield fake


@pytest.fixture
def vllm(shared_fake_vllm: FakeVllm) -> Iterator[FakeVllm]:
    """The fake vLLM behind the quick gates, without a fault."""
    shared_fake_vllm.reset()
    yield shared_fake_vllm
    shared_fake_vllm.reset()


@pytest.fixture
def open_gate(demo_encoder: UnitEncoder, vllm: FakeVllm) -> Iterator[OpenGate]:
    with ExitStack() as stack:

        def open_one(
            *,
            engine: Engine | Literal["none"] | None = None,
            encoder: UnitEncoder | None = None,
            ready: bool = True,
            **settings: Any,
        ) -> Gate:
            if engine == "none":
                settings |= {"engine": "none", "engine_url": None}
                engine = None
            chosen = Settings(_env_file=None, **{"engine_url": vllm.url} | SETTINGS | settings)
            load_smoother = quick_smoother(encoder or demo_encoder, chosen)
            service = opened(chosen, engine=engine, load_smoother=load_smoother, smoothing={})
            gate = stack.enter_context(service)
            if ready:
                gate.wait_ready(30)
            return gate

        yield open_one


@pytest.fixture(scope="session")
def shared_quick_gate(demo_encoder: UnitEncoder, shared_fake_vllm: FakeVllm) -> Iterator[Gate]:
    settings = Settings(_env_file=None, engine_url=shared_fake_vllm.url, **SETTINGS)
    load_smoother = quick_smoother(demo_encoder, settings)
    with opened(settings, load_smoother=load_smoother, smoothing={}) as gate:
        gate.wait_ready(30)
        yield gate


@pytest.fixture
def quick_gate(shared_quick_gate: Gate, vllm: FakeVllm) -> Gate:
    """A gate with the settings above, shared by all tests that need no others, idle."""
    shared_quick_gate.wait_idle()
    return shared_quick_gate


def quick_smoother(encoder: UnitEncoder, settings: Settings) -> Callable[[], Smoother]:
    """Makes a smoother on one core that does not measure itself."""

    def make() -> Smoother:
        sampler = Sampler([Worker(encoder.units, torch.device("cpu"))], batch_size=32, rate=500.0)
        return Smoother(
            encoder,
            sampler,
            DEMO.served_name,
            seeds=load_noise_seeds(settings.noise_secret_file),
            cache_bytes=settings.cache_mib * 2**20,
        )

    return make
