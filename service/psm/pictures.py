"""Folders of pictures, as calibration and training take them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from service.errors import RequestError, SmoothgateError
from service.vision import DecodedImage, VisionAdapter, decode

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif"})
_LARGEST = 100_000_000


def list_pictures(folder: Path) -> list[Path]:
    """Every picture below a folder, sorted by path.

    Raises:
        SmoothgateError: code `no_pictures`: there is none.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise SmoothgateError(f"{folder} holds no PNG, JPEG, WebP or GIF.", code="no_pictures")
    return found


def read_pictures(paths: list[Path], unreadable: list[Path]) -> Iterator[DecodedImage]:
    """Decode pictures one by one; those that cannot be are appended to `unreadable`."""
    for path in paths:
        try:
            yield decode(path.read_bytes(), max_pixels=_LARGEST)
        except (OSError, RequestError):
            unreadable.append(path)


@torch.no_grad()
def clean_tokens(
    adapter: VisionAdapter, pictures: Iterator[DecodedImage], batch: int = 32
) -> Iterator[Tensor]:
    """h of the canvases of pictures: tokens (B, T, D), batch by batch."""
    canvases: list[Tensor] = []
    for picture in pictures:
        canvases.append(adapter.canvas(picture).x)
        if len(canvases) == batch:
            yield adapter.tokens(torch.stack(canvases).to(adapter.device))
            canvases = []
    if canvases:
        yield adapter.tokens(torch.stack(canvases).to(adapter.device))
