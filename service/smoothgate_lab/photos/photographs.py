"""Labelled photographs of 32 x 32 pixels, the files that hold them, and batches of them.

A folder holds them in one of three forms:

* Fashion-MNIST (Xiao et al. 2017) as its four files, `train-images-idx3-ubyte.gz` and so on. The pictures of
  28 x 28 get a black margin of two pixels.
* `cifar-10-binary.tar.gz`, the official archive of CIFAR-10 (Krizhevsky 2009) in its binary version;
* `cifar10-train.npz` and `cifar10-test.npz` with JPEG copies of it: `jpeg` has all files one after another
  (uint8), `offsets` has the places where they begin and end, `labels` has the classes, `names` their names.

Figures from JPEG copies are not figures from the original pictures. Whoever reports them says so.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from smoothgate.errors import SmoothgateError
from smoothgate_lab.photos.photo_sets import CIFAR10, CLASSES, FASHION_MNIST, PhotoSet
from smoothgate_lab.training_loop import seeded

CANVAS = 32

Split = Literal["train", "test"]
Pixels = npt.NDArray[np.uint8]

_BATCHES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
_RECORD = 1 + 3 * CANVAS**2
_IDX = {"train": "train", "test": "t10k"}
_IDX_SIDE = 28


@dataclass(frozen=True, slots=True)
class Photographs:
    """Labelled photographs.

    Attributes:
        pixels: (N, 3, 32, 32), uint8.
        labels: (N,), int64: places in the set's classes.
        photo_set: what they show.
    """

    pixels: Tensor
    labels: Tensor
    photo_set: PhotoSet

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> Photographs:
        """The photographs at some places (M,)."""
        return Photographs(self.pixels[indices], self.labels[indices], self.photo_set)

    def of_each_class(self, first: int, last: int) -> Photographs:
        """Of each class, the photographs from number `first` up to, but not including, number `last`."""
        chosen = [(self.labels == c).nonzero()[first:last, 0] for c in range(CLASSES)]
        return self.take(torch.cat(chosen))

    @property
    def digest(self) -> str:
        """SHA-256 of pixels and labels: it tells copies from originals."""
        return hashlib.sha256(self.pixels.numpy().tobytes() + self.labels.numpy().tobytes()).hexdigest()

    @property
    def nouns(self) -> list[str]:
        """The class of each, as answers name it."""
        return [self.photo_set.nouns[label] for label in self.labels]

    @property
    def canvases(self) -> Tensor:
        """(N, 3, 32, 32) in [0, 1]."""
        return self.pixels / 255

    def batch(self, number: int, size: int, seed: int) -> Photographs:
        """The photographs of one batch: each is drawn once before any is drawn again.

        Args:
            number: of the batch. A batch depends on it and on the seed alone.
            size: of the batch.
            seed: of the order.
        """
        per_epoch = len(self) // size
        if not per_epoch:
            raise SmoothgateError(
                f"A batch takes {size} photographs, and there are {len(self)}.", code="too_few_images"
            )
        epoch, place = divmod(number, per_epoch)
        order = torch.randperm(len(self), generator=seeded(seed, epoch))
        return self.take(order[place * size : (place + 1) * size])


def load_photographs(folder: Path, split: Split) -> Photographs:
    """Read the training or the test pictures from a folder; the module says in which forms.

    Raises:
        SmoothgateError: code `no_photographs`: the folder does not hold them, or they cannot be read.
    """
    for name, photo_set, read in _forms(split):
        file = folder / name
        if file.exists():
            try:
                pixels, labels = read(file)
            except (OSError, KeyError, ValueError, EOFError, tarfile.TarError) as error:
                raise SmoothgateError(f"{file} cannot be read: {error}", code="no_photographs") from error
            return Photographs(torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64)), photo_set)
    known = " nor ".join(name for name, _, _ in _forms(split))
    raise SmoothgateError(
        f"{folder} holds neither {known} (Debian's dataset-fashion-mnist; "
        "https://www.cs.toronto.edu/~kriz/cifar.html).",
        code="no_photographs",
    )


def _forms(split: Split) -> tuple[tuple[str, PhotoSet, Callable[[Path], tuple[Pixels, Pixels]]], ...]:
    """Files that tell the form of a folder, the set that it holds, and how it is read."""
    return (
        (f"{_IDX[split]}-images-idx3-ubyte.gz", FASHION_MNIST, _from_idx),
        (f"cifar10-{split}.npz", CIFAR10, _from_copies),
        ("cifar-10-binary.tar.gz", CIFAR10, lambda file: _from_archive(file, split)),
    )


def _from_idx(file: Path) -> tuple[Pixels, Pixels]:
    pictures = np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8, offset=16)
    labels_file = file.with_name(file.name.replace("images-idx3", "labels-idx1"))
    labels = np.frombuffer(gzip.decompress(labels_file.read_bytes()), np.uint8, offset=8)
    margin = (CANVAS - _IDX_SIDE) // 2
    pixels = np.pad(
        pictures.reshape(len(labels), 1, _IDX_SIDE, _IDX_SIDE), ((0, 0), (0, 0), *((margin, margin),) * 2)
    )
    return pixels.repeat(3, axis=1), labels


def _from_copies(file: Path) -> tuple[Pixels, Pixels]:
    with np.load(file) as stored:
        if tuple(stored["names"]) != CIFAR10.labels:
            raise ValueError(f"its classes are not {', '.join(CIFAR10.labels)}")
        jpeg, offsets, labels = stored["jpeg"], stored["offsets"], stored["labels"]
    pictures = [
        np.asarray(Image.open(io.BytesIO(jpeg[start:end].tobytes())).convert("RGB"))
        for start, end in pairwise(offsets)
    ]
    return np.stack(pictures).transpose(0, 3, 1, 2).copy(), labels


def _from_archive(file: Path, split: Split) -> tuple[Pixels, Pixels]:
    with tarfile.open(file) as archive:
        members = {Path(member.name).name: member for member in archive.getmembers() if member.isfile()}
        parts = [archive.extractfile(members[name]) for name in _BATCHES[split]]
        data = b"".join(part.read() for part in parts if part is not None)
    records = np.frombuffer(data, np.uint8).reshape(-1, _RECORD)
    return records[:, 1:].reshape(-1, 3, CANVAS, CANVAS).copy(), records[:, 0]
