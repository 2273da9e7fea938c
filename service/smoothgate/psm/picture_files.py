"""Folders of pictures, as calibration takes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from smoothgate.errors import RequestError, SmoothgateError
from smoothgate.vision import DecodedImage, VisionAdapter, decode

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif"})
_LARGEST = 100_000_000


def list_pictures(folder: Path) -> list[Path]:
    """All pictures below a folder, sorted by path.

    Raises:
        SmoothgateError: code `no_pictures`: there are none.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise SmoothgateError(f"{folder} holds no PNG, JPEG, WebP or GIF.", code="no_pictures")
    return paths


def read_picture(path: Path) -> DecodedImage:
    """Decode one picture.

    Raises:
        OSError, RequestError: the file cannot be read, or it holds no picture.
    """
    return decode(path.read_bytes(), max_pixels=_LARGEST)


def read_pictures(paths: list[Path], unreadable: list[Path]) -> Iterator[DecodedImage]:
    """Decode pictures one by one. Those that cannot be decoded are appended to `unreadable`."""
    for path in paths:
        try:
            yield read_picture(path)
        except (OSError, RequestError):
            unreadable.append(path)


def stacked_canvases(adapter: VisionAdapter, pictures: Sequence[DecodedImage]) -> Tensor:
    """Canvases (N, 3, H, W) of pictures.

    If the canvas depends on the image, all pictures are cropped and resized to the size of the first.
    """
    return torch.stack([adapter.canvas(picture).x for picture in _of_one_size(adapter, pictures)])


def _of_one_size(adapter: VisionAdapter, pictures: Sequence[DecodedImage]) -> Sequence[DecodedImage]:
    if adapter.canvas_shape is not None:
        return pictures
    height, width = adapter.filling_size(pictures[0].height, pictures[0].width)
    return [_fitted(picture, height, width) for picture in pictures]


def _fitted(picture: DecodedImage, height: int, width: int) -> DecodedImage:
    image = ImageOps.fit(Image.fromarray(picture.pixels), (width, height), Image.Resampling.BICUBIC)
    return replace(picture, pixels=np.asarray(image))


@torch.no_grad()
def clean_tokens(
    adapter: VisionAdapter, pictures: Iterator[DecodedImage], batch: int | None = None
) -> Iterator[Tensor]:
    """Visual tokens (B, T, D) of the canvases of pictures, batch by batch; see `stacked_canvases`."""
    size = batch or (32 if adapter.canvas_shape is not None else 8)
    while chosen := list(islice(pictures, size)):
        yield adapter.tokens(stacked_canvases(adapter, chosen).to(adapter.device))


def random_canvases(adapter: VisionAdapter, paths: Sequence[Path], n: int, seed: int) -> Tensor:
    """Canvases (N, 3, H, W) of n different readable pictures, or of all; see `stacked_canvases`."""
    chosen = torch.randperm(len(paths), generator=torch.Generator().manual_seed(seed))[:n].tolist()
    return stacked_canvases(adapter, [read_picture(paths[index]) for index in chosen])
