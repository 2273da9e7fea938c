"""Pictures as PNG files and as data URIs."""

from __future__ import annotations

import base64
import io

from PIL import Image


def encode_png(picture: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def png_data_uri(png: bytes) -> str:
    """A PNG file as a data URI (RFC 2397)."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
