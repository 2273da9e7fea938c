"""Folders of pictures, as calibration and training take them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from smoothgate.errors import RequestError, SmoothgateError
from smoothgate.vision import DecodedImage, VisionAdapter, decode
from smoothgate_lab.training_loop import seeded

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif"})
_LARGEST = 100_000_000
_FEWEST = 20
_MOST_HELD_OUT = 500


def list_pictures(folder: Path) -> list[Path]:
    """All pictures below a folder, sorted by path.

    Raises:
        SmoothgateError: code `no_pictures`: there are none.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise SmoothgateError(f"{folder} holds no PNG, JPEG, WebP or GIF.", code="no_pictures")
    return paths


def read_pictures(paths: list[Path], unreadable: list[Path]) -> Iterator[DecodedImage]:
    """Decode pictures one by one. Those that cannot be decoded are appended to `unreadable`."""
    for path in paths:
        try:
            yield decode(path.read_bytes(), max_pixels=_LARGEST)
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


class FolderPictures:
    """Canvases of pictures chosen at random, the same for the same batch; the next batch is decoded ahead.

    Args:
        adapter: whose canvases are made.
        paths: pictures; one that cannot be read is replaced by the next that can.
        seed: of the choice.

    Attributes:
        unreadable: pictures that could not be read so far.
    """

    def __init__(self, adapter: VisionAdapter, paths: Sequence[Path], seed: int) -> None:
        self.unreadable: set[Path] = set()
        self._adapter = adapter
        self._paths = paths
        self._seed = seed
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="pictures")
        self._ahead: dict[tuple[int, int], Future[Tensor]] = {}
        self._lock = threading.Lock()

    def __call__(self, batch: int, n: int) -> Tensor:
        """Canvases (n, 3, H, W) of a batch; see `stacked_canvases`.

        Raises:
            SmoothgateError: code `no_pictures`: none can be read.
        """
        waiting = self._ahead.pop((batch, n), None) or self._submit(batch, n)
        self._ahead = {(batch + 1, n): self._submit(batch + 1, n)}
        return waiting.result()

    def _submit(self, batch: int, n: int) -> Future[Tensor]:
        chosen = torch.randint(len(self._paths), (n,), generator=seeded(self._seed, batch)).tolist()
        pictures = [self._pool.submit(self._picture, index) for index in chosen]
        # Last in the pool's queue, so that whoever it waits for is under way.
        return self._pool.submit(
            lambda: stacked_canvases(self._adapter, [each.result() for each in pictures])
        )

    def _picture(self, index: int) -> DecodedImage:
        for path in (self._paths[(index + step) % len(self._paths)] for step in range(len(self._paths))):
            with self._lock:
                if path in self.unreadable:
                    continue
            try:
                return decode(path.read_bytes(), max_pixels=_LARGEST)
            except (OSError, RequestError):
                with self._lock:
                    self.unreadable.add(path)
        raise SmoothgateError("None of the pictures can be read.", code="no_pictures")


def split_pictures(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Training pictures and held-out ones: every tenth, at most 500.

    Raises:
        SmoothgateError: code `too_few_images`: fewer than twenty.
    """
    if len(paths) < _FEWEST:
        raise SmoothgateError(
            f"Training takes at least {_FEWEST} pictures, not {len(paths)}.", code="too_few_images"
        )
    every = max(10, len(paths) // _MOST_HELD_OUT)
    held_out = set(range(every - 1, len(paths), every))
    return [p for i, p in enumerate(paths) if i not in held_out], [paths[i] for i in sorted(held_out)]
