"""Canvases as PNG, as the page shows them."""

from __future__ import annotations

from torch import Tensor

from smoothgate.pictures.images import to_picture
from smoothgate.vision.png import encode_png, png_data_uri


def data_uri(x: Tensor) -> str:
    """A canvas (3, H, W) as a PNG data URI, clipped to [0, 1] and rounded to 8 bits."""
    return png_data_uri(encode_png(to_picture(x.clamp(0, 1))))
