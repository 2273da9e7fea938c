"""Canvases as PNG, as the page shows them."""

from __future__ import annotations

import base64
import io

from torch import Tensor

from smoothgate.vision.images import to_picture


def png(x: Tensor) -> bytes:
    """(3, H, W), clipped to [0, 1] and rounded to 8 bits."""
    file = io.BytesIO()
    to_picture(x.clamp(0, 1)).save(file, "PNG")
    return file.getvalue()


def data_uri(x: Tensor) -> str:
    """The same as a data URI."""
    return "data:image/png;base64," + base64.b64encode(png(x)).decode()
