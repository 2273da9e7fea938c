from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smoothgate.bundled import PHOTOS
from smoothgate_lab.cli.photos_commands import FASHION_MNIST_FOLDER
from smoothgate_lab.photos.photo_samples import write_samples
from smoothgate_lab.photos.photo_sets import FASHION_MNIST
from smoothgate_lab.photos.photographs import load_photographs
from tests.lab.photos.made_photographs import write_idx


def test_each_sample_is_a_picture_of_its_class(tmp_path: Path) -> None:
    """A made picture has the shade of its class."""
    grey = write_idx(tmp_path, 110, "t10k")
    written = write_samples(tmp_path, load_photographs(tmp_path, "test"))
    assert {name: f"a {name.removesuffix('.png')}" for name in written} == written
    for name, noun in written.items():
        with Image.open(tmp_path / name) as picture:
            assert picture.size == (224, 224)
            middle = np.asarray(picture)[14:-14, 14:-14].mean()
        label = FASHION_MNIST.nouns.index(noun)
        assert middle == pytest.approx(grey[label * 110 : (label + 1) * 110].mean(), abs=2)


@pytest.mark.skipif(
    not FASHION_MNIST_FOLDER.is_dir(), reason="needs Fashion-MNIST: apt-get install dataset-fashion-mnist"
)
def test_the_shipped_samples_are_made_by_the_command(tmp_path: Path) -> None:
    for name in write_samples(tmp_path, load_photographs(FASHION_MNIST_FOLDER, "test")):
        assert (tmp_path / name).read_bytes() == (PHOTOS.samples / name).read_bytes(), name
