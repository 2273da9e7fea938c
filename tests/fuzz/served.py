"""Services of our own to send things to: on the demo model, and on a model whose canvases have free sizes."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from smoothgate.settings import PREFIX
from smoothgate_lab.evaluation.running_service import Running, running
from tests.families import tiny_model

# Small, so that what is accepted costs little and the cache is full after the warm-up.
_SETTINGS = {
    "LOG_FORMAT": "json",
    "ENGINE_MAX_MODEL_LEN": "512",
    "N_SELECT": "16",
    "N_CERTIFY": "64",
    "MAX_SAMPLES": "512",
    "CACHE_MIB": "1",
    "ALLOW_SMOOTHING_OFF": "true",
    "MAX_BODY_BYTES": str(4 << 20),
    "MAX_IMAGE_BYTES": str(1 << 20),
    "BODY_TIMEOUT_SECONDS": "3",
    # An answer is then due before `sending` gives a request up.
    "REQUEST_TIMEOUT_SECONDS": "45",
}


@contextmanager
def demo(log: Path) -> Iterator[Running]:
    """`smoothgate serve` on the demo model with a real vLLM.

    Args:
        log: where its log is kept.

    Raises:
        SmoothgateError: it did not start.
    """
    with _started(log, {}) as service:
        yield service


@contextmanager
def free_sizes(log: Path) -> Iterator[Running]:
    """The same on a tiny random checkpoint whose canvases have free sizes; arguments and errors as there."""
    with (
        tempfile.TemporaryDirectory(prefix="smoothgate-fuzz-") as folder,
        _started(log, tiny_model.free_sizes(Path(folder))) as service,
    ):
        yield service


@contextmanager
def _started(log: Path, more: Mapping[str, str]) -> Iterator[Running]:
    settings = {PREFIX + name: value for name, value in _SETTINGS.items()}
    with (
        tempfile.TemporaryDirectory(prefix="smoothgate-store-") as store,
        running(log, {**settings, PREFIX + "STORE": store, **more}) as service,
    ):
        yield service
