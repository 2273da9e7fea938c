"""Small made-up data in the forms of CIFAR-10 and Fashion-MNIST: each class has a shade of its own."""

from __future__ import annotations

import colorsys
import gzip
import io
import struct
import tarfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from smoothgate_lab.photos.photo_sets import CIFAR10


def made_pixels(per_class: int, seed: int = 0) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Pixels (N, 32, 32, 3), a class's pictures one after another, and labels (N,)."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(10, dtype=np.uint8), per_class)
    hues = np.array([colorsys.hsv_to_rgb(c / 10, 1, 0.8) for c in range(10)])
    noise = rng.normal(0, 0.1, (len(labels), 32, 32, 3))
    pixels = (hues[labels][:, None, None] + noise).clip(0, 1) * 255
    return pixels.astype(np.uint8), labels


def write_copies(folder: Path, per_class: int, split: str = "train") -> None:
    """Write JPEG copies as an npz file."""
    pixels, labels = made_pixels(per_class)
    files = []
    for picture in pixels:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=75)
        files.append(buffer.getvalue())
    np.savez(
        folder / f"cifar10-{split}.npz",
        jpeg=np.frombuffer(b"".join(files), np.uint8),
        offsets=np.cumsum([0, *map(len, files)]),
        labels=labels,
        names=np.array(CIFAR10.labels),
    )


def write_archive(folder: Path, per_class: int) -> None:
    """Write the official archive's binary version: five training batches and a test batch of equal size."""
    pixels, labels = made_pixels(per_class)
    planes = pixels.transpose(0, 3, 1, 2).reshape(len(labels), -1)
    records = np.concatenate([labels[:, None], planes], 1).tobytes()
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(records)
            archive.addfile(member, io.BytesIO(records))


def write_idx(folder: Path, per_class: int, split: str) -> npt.NDArray[np.uint8]:
    """Write the two files of a split of Fashion-MNIST. Returns the pixels (N, 28, 28)."""
    pixels, labels = made_pixels(per_class)
    grey: npt.NDArray[np.uint8] = pixels[:, 2:30, 2:30].mean(-1).astype(np.uint8)
    for name, numbers in (("images-idx3", grey), ("labels-idx1", labels)):
        head = struct.pack(f">4B{numbers.ndim}I", 0, 0, 8, numbers.ndim, *numbers.shape)
        (folder / f"{split}-{name}-ubyte.gz").write_bytes(gzip.compress(head + numbers.tobytes()))
    return grey
