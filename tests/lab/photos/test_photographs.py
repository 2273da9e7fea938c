from pathlib import Path

import numpy as np
import pytest
import torch

from smoothgate.errors import SmoothgateError
from smoothgate_lab.photos.photo_sets import CIFAR10, CLASSES, FASHION_MNIST, PhotoSet
from smoothgate_lab.photos.photographs import Photographs, load_photographs
from tests.lab.photos.made_photographs import made_pixels, write_archive, write_copies, write_idx


def test_the_official_archive_is_read_to_the_byte(tmp_path: Path) -> None:
    write_archive(tmp_path, 2)
    pixels, labels = made_pixels(2)
    test, train = (load_photographs(tmp_path, split) for split in ("test", "train"))
    assert np.array_equal(test.pixels.permute(0, 2, 3, 1).numpy(), pixels)
    assert test.labels.tolist() == labels.tolist()
    assert len(train) == 5 * len(test)
    assert torch.equal(train.pixels[: len(test)], test.pixels)


def test_jpeg_copies_are_read_and_are_not_taken_for_the_originals(tmp_path: Path) -> None:
    write_archive(tmp_path, 2)
    original = load_photographs(tmp_path, "test")
    write_copies(tmp_path, 2, "test")
    copies = load_photographs(tmp_path, "test")
    assert copies.labels.tolist() == original.labels.tolist()
    assert (copies.canvases - original.canvases).abs().mean() < 0.1
    assert copies.digest != original.digest


def test_the_files_of_fashion_mnist_are_read_with_a_black_margin(tmp_path: Path) -> None:
    grey = write_idx(tmp_path, 2, "t10k")
    photographs = load_photographs(tmp_path, "test")
    assert photographs.photo_set is FASHION_MNIST
    assert photographs.nouns[::2] == list(FASHION_MNIST.nouns)
    for channel in range(3):
        assert np.array_equal(photographs.pixels[:, channel, 2:-2, 2:-2].numpy(), grey)
    margin = photographs.pixels.clone()
    margin[..., 2:-2, 2:-2] = 0
    assert not margin.any()


def test_fashion_mnist_without_its_labels_is_refused(tmp_path: Path) -> None:
    write_idx(tmp_path, 2, "train")
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(SmoothgateError, match=r"train-images-idx3-ubyte.gz cannot be read") as caught:
        load_photographs(tmp_path, "train")
    assert caught.value.code == "no_photographs"


@pytest.mark.parametrize("photo_set", [CIFAR10, FASHION_MNIST], ids=lambda each: each.name)
def test_each_class_of_a_set_has_a_label_a_noun_and_a_kind(photo_set: PhotoSet) -> None:
    assert len(photo_set.labels) == len(set(photo_set.nouns)) == len(photo_set.kinds) == CLASSES


def test_a_folder_without_photographs_is_named_and_says_what_belongs_there(tmp_path: Path) -> None:
    known = "train-images-idx3-ubyte.gz nor cifar10-train.npz nor cifar-10-binary.tar.gz .*kriz/cifar.html"
    with pytest.raises(SmoothgateError, match=known) as caught:
        load_photographs(tmp_path, "train")
    assert caught.value.code == "no_photographs"


@pytest.mark.parametrize(
    "name", ["train-images-idx3-ubyte.gz", "cifar10-train.npz", "cifar-10-binary.tar.gz"]
)
def test_a_file_that_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"no archive")
    with pytest.raises(SmoothgateError, match=name) as caught:
        load_photographs(tmp_path, "train")
    assert caught.value.code == "no_photographs"


def test_other_classes_are_refused(tmp_path: Path) -> None:
    write_copies(tmp_path, 1)
    with np.load(tmp_path / "cifar10-train.npz") as stored:
        other = dict(stored)
    other["names"] = np.array(CIFAR10.labels[::-1])
    np.savez(tmp_path / "cifar10-train.npz", **other)
    with pytest.raises(SmoothgateError, match="classes"):
        load_photographs(tmp_path, "train")


def _made(per_class: int) -> Photographs:
    pixels, labels = made_pixels(per_class)
    planes = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
    return Photographs(planes, torch.from_numpy(labels).long(), CIFAR10)


def test_an_epoch_shows_each_photograph_once_in_an_order_of_its_own() -> None:
    photographs = _made(4)
    epochs = [torch.cat([photographs.batch(e * 5 + b, 8, 1).pixels for b in range(5)]) for e in range(2)]
    for epoch in epochs:
        assert {picture.numpy().tobytes() for picture in epoch} == {
            picture.numpy().tobytes() for picture in photographs.pixels
        }
    assert not torch.equal(*epochs)


def test_more_photographs_in_a_batch_than_there_are_is_refused() -> None:
    with pytest.raises(SmoothgateError, match="41"):
        _made(4).batch(0, 41, 1)


def test_the_split_takes_as_many_of_each_class() -> None:
    photographs = _made(5)
    held_out, rest = photographs.of_each_class(0, 2), photographs.of_each_class(2, 5)
    assert held_out.labels.bincount().tolist() == [2] * 10
    assert rest.labels.bincount().tolist() == [3] * 10
    seen = {picture.numpy().tobytes() for picture in rest.pixels}
    assert not any(picture.numpy().tobytes() in seen for picture in held_out.pixels)
