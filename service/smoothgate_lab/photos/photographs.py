"""CIFAR-10 (Krizhevsky 2009): photographs of 32 x 32 pixels in ten classes, and batches of them.

A folder holds them in one of two forms:

* `cifar-10-binary.tar.gz`, the official archive in its binary version;
* `cifar10-train.npz` and `cifar10-test.npz` with JPEG copies: `jpeg` has all files one after another
  (uint8), `offsets` has the places where they begin and end, `labels` has the classes, `names` their names.

Figures from JPEG copies are not figures from the original pictures. Whoever reports them says so.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
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
from smoothgate_lab.training_loop import seeded

CANVAS = 32
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

Split = Literal["train", "test"]

_ARCHIVE = "cifar-10-binary.tar.gz"
_BATCHES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
_RECORD = 1 + 3 * CANVAS**2


@dataclass(frozen=True, slots=True)
class Photographs:
    """Labelled photographs.

    Attributes:
        pixels: (N, 3, 32, 32), uint8.
        labels: (N,), int64: places in `CLASSES`.
    """

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> Photographs:
        """The photographs at some places (M,)."""
        return Photographs(self.pixels[indices], self.labels[indices])

    def of_each_class(self, first: int, last: int) -> Photographs:
        """Of each class, the photographs from number `first` up to, but not including, number `last`."""
        chosen = [(self.labels == c).nonzero()[first:last, 0] for c in range(len(CLASSES))]
        return self.take(torch.cat(chosen))

    @property
    def digest(self) -> str:
        """SHA-256 of pixels and labels: it tells copies from originals."""
        return hashlib.sha256(self.pixels.numpy().tobytes() + self.labels.numpy().tobytes()).hexdigest()

    @property
    def names(self) -> list[str]:
        """The class of each, by its name."""
        return [CLASSES[label] for label in self.labels]

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
    copies, archive = folder / f"cifar10-{split}.npz", folder / _ARCHIVE
    if not (copies.exists() or archive.exists()):
        raise SmoothgateError(
            f"{folder} holds neither {copies.name} nor {_ARCHIVE} (https://www.cs.toronto.edu/~kriz/cifar.html).",
            code="no_photographs",
        )
    file = copies if copies.exists() else archive
    try:
        pixels, labels = _from_copies(file) if file is copies else _from_archive(file, split)
    except (OSError, KeyError, ValueError, EOFError, tarfile.TarError) as error:
        raise SmoothgateError(f"{file} cannot be read: {error}", code="no_photographs") from error
    return Photographs(torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64)))


def _from_copies(file: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    with np.load(file) as stored:
        if tuple(stored["names"]) != CLASSES:
            raise ValueError(f"its classes are not {', '.join(CLASSES)}")
        jpeg, offsets, labels = stored["jpeg"], stored["offsets"], stored["labels"]
    pictures = [
        np.asarray(Image.open(io.BytesIO(jpeg[start:end].tobytes())).convert("RGB"))
        for start, end in pairwise(offsets)
    ]
    return np.stack(pictures).transpose(0, 3, 1, 2).copy(), labels


def _from_archive(file: Path, split: Split) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    with tarfile.open(file) as archive:
        members = {Path(member.name).name: member for member in archive.getmembers() if member.isfile()}
        parts = [archive.extractfile(members[name]) for name in _BATCHES[split]]
        data = b"".join(part.read() for part in parts if part is not None)
    records = np.frombuffer(data, np.uint8).reshape(-1, _RECORD)
    return records[:, 1:].reshape(-1, 3, CANVAS, CANVAS).copy(), records[:, 0]
