"""The bundled demo model: a small LLaVA that answers questions about scenes of real handwritten digits."""

from importlib.resources import files
from pathlib import Path


def bundled(name: str) -> Path:
    """A folder that ships with the demo: `model`, `psm` or `samples`."""
    return Path(str(files("smoothgate.demo") / name))
