"""The bundled demo model: a small LLaVA that answers questions about scenes of real handwritten digits."""

from importlib.resources import files
from pathlib import Path

#: One phrasing of each kind of question about one picture that the demo model answers; the playground shows
#: them.
QUESTIONS = (
    "What digit is shown?",
    "What color is the digit?",
    "What color is the background?",
    "Is the background plain, striped or spotted?",
    "Is the digit even or odd?",
    "Describe the image.",
)

#: The picture among the samples that canaries send, and that calibration scores for them.
CANARY = "seven.png"


def bundled(name: str) -> Path:
    """A folder that ships with the demo: `model`, `psm` or `samples`."""
    return Path(str(files("smoothgate.demo") / name))
