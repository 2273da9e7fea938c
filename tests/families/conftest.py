"""One service per family, with a vLLM of its own, one after another."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from _pytest.mark import ParameterSet

from smoothgate.engine import LocalEngine
from smoothgate.settings import Settings
from smoothgate.vision import VisionAdapter
from tests.families import checkpoints, tiny_model
from tests.whole_service import Gate, opened

#: Families whose image path in vLLM takes embeddings too; others are held against transformers' `generate`.
AGAINST_VLLM = ("llava", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava_next", "llava_onevision", "internvl")
#: Between them they hand tokens over in every way there is: embeddings, embeddings with a grid, DeepStack
#: features, and embeddings of the prompt around tiles. The others are long tests.
EVERY_HANDOVER = ("llava", "qwen2_5_vl", "qwen3_vl", "llava_next")


@dataclass(frozen=True)
class Served:
    """A family's tiny checkpoint, served."""

    name: str
    path: Path
    gate: Gate
    engine: httpx.Client
    """Straight to vLLM, past the service."""

    @property
    def adapter(self) -> VisionAdapter:
        return self.gate.smoother.encoder.adapter


@contextmanager
def _opened(name: str, folder: Path) -> Iterator[Served]:
    settings = Settings(
        _env_file=None,
        allow_smoothing_off=True,
        engine_args=("--max-num-seqs", "8"),
        canary_seconds=0,
        **tiny_model.write(name, folder),
    )
    with opened(settings) as gate:
        gate.wait_ready(600)
        local = gate.service.engine
        assert isinstance(local, LocalEngine)
        transport = httpx.HTTPTransport(uds=str(local.socket))
        with httpx.Client(transport=transport, base_url="http://engine", timeout=120) as engine:
            yield Served(name, folder / "model", gate, engine)


def _each_family() -> list[ParameterSet]:
    return [
        pytest.param(name, marks=[] if name in EVERY_HANDOVER else pytest.mark.long)
        for name in checkpoints.BUILDERS
    ]


@pytest.fixture(scope="module", params=_each_family())
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXX", "/bin/false")
        if request.param in AGAINST_VLLM:
            _allow_pixels(patch, request.param)
        with _opened(request.param, folder) as served:
            yield served


def _allow_pixels(patch: pytest.MonkeyPatch, name: str) -> None:
    """In the engine, for the sake of the comparison; the service's own limit is 0 where the family allows."""
    from smoothgate.vision import families

    limits = families.adapter_class(name).engine_limits
    patch.setattr(families.adapter_class(name), "engine_limits", limits | {"image": 1})
