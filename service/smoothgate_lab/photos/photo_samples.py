"""The photographs model's bundled sample pictures, for README, the playground and tests."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from smoothgate_lab.photos.photographs import Photographs

_SCALE = 7
# Chosen by eye among ten test pictures of each class that no table is about: class and number within it.
_CHOSEN = {"sneaker.png": (7, 109), "bag.png": (8, 105), "dress.png": (3, 105), "coat.png": (4, 100)}


def write_samples(folder: Path, photographs: Photographs) -> dict[str, str]:
    """Write four test pictures, enlarged to 224 x 224.

    Args:
        folder: gets the files.
        photographs: the test pictures of Fashion-MNIST.

    Returns:
        The noun of each file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for name, (label, number) in _CHOSEN.items():
        found = photographs.of_each_class(number, number + 1)
        picture = Image.fromarray(found.pixels[label].permute(1, 2, 0).numpy())
        size = (picture.width * _SCALE, picture.height * _SCALE)
        picture.convert("L").resize(size, Image.Resampling.BICUBIC).save(folder / name, optimize=True)
        written[name] = found.nouns[label]
    return written
