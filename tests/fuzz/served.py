"""A service of our own to send things to."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from smoothgate.settings import PREFIX
from smoothgate_lab.evaluation.running_service import running

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
}


@contextmanager
def service(log: Path | None) -> Iterator[tuple[str, int]]:
    """`smoothgate serve` on the demo model with a real vLLM: its URL and its process.

    Args:
        log: where its log is kept; None where it is not.

    Raises:
        SmoothgateError: it did not start.
    """
    settings = {PREFIX + name: value for name, value in _SETTINGS.items()}
    with (
        tempfile.TemporaryDirectory(prefix="smoothgate-fuzz-") as folder,
        running(log or Path(folder, "log"), settings) as started,
    ):
        yield started.url, started.pid
