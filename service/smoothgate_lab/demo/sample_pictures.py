"""The bundled sample pictures of held-out digits, for README, `/docs` and tests."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from smoothgate_lab.demo.conversation import Facts
from smoothgate_lab.demo.demo_evaluation import labelled_scenes, plain_pictures

_SEED = 11
_SCALE = 4
# Chosen by eye among the first 60 scenes of the seed, with different digits, colours and patterns.
_SCENES = {"three.png": 22, "seven.png": 54, "two.png": 33}
_PLAIN = {"plain-five.png": 25}


def write_samples(folder: Path) -> dict[str, Facts | int]:
    """Write three scenes, enlarged to 192 x 192, and one plain picture.

    Returns:
        The facts about each file: all facts of a scene, or the digit of the plain picture.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, Facts | int] = {}
    scenes, _ = labelled_scenes("held-out", 60, _SEED)
    for name, index in _SCENES.items():
        picture = scenes[index].picture
        size = (picture.width * _SCALE, picture.height * _SCALE)
        picture.resize(size, Image.Resampling.BICUBIC).save(folder / name, optimize=True)
        written[name] = scenes[index].facts
    plain = plain_pictures(60, _SEED)
    for name, index in _PLAIN.items():
        picture, written[name] = plain[index]
        picture.save(folder / name, optimize=True)
    return written
