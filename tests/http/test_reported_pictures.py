"""Pictures that other services refuse, as public bug reports tell, by case, through the whole service."""

import base64
import io
import struct
import zlib
from typing import Any

import pytest
from PIL import Image

from tests.whole_service import SAMPLES, Gate

PNG = (SAMPLES / "seven.png").read_bytes()
SEVEN = Image.open(io.BytesIO(PNG)).convert("RGB")
NO_EXIF = b"Exif\0\0http://ns.adobe.com/xap/1.0/\0<x/>"


def _saved(kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    SEVEN.save(file, kind, **options)
    return file.getvalue()


def _animated(kind: str) -> bytes:
    return _saved(kind, save_all=True, append_images=[SEVEN.rotate(90)], duration=100)


def _png_with(kind: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return PNG[:33] + struct.pack(">I", len(data)) + kind + data + checksum + PNG[33:]


def _uri(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _lines(end: str) -> str:
    return "data:image/png;base64," + base64.encodebytes(PNG).decode().replace("\n", end)


LONG = zlib.compress(b'{"nodes": []}' * 160_000)
CASES: dict[str, list[str]] = {
    "animated_webp": [_uri(_animated(kind)) for kind in ("GIF", "WEBP", "PNG")],
    "base64_whitespace": [_lines("\n"), _lines("\r\n"), _uri(PNG).replace(",", ", "), _uri(PNG).rstrip("=")],
    "data_uri_media_type": [
        _uri(_saved("JPEG"), kind) for kind in ("image", "", "application/octet-stream", "image/heic")
    ],
    "exif_garbage": [_uri(_saved(kind, exif=NO_EXIF)) for kind in ("WEBP", "JPEG")],
    "png_large_metadata": [
        _uri(_png_with(b"zTXt", b"workflow\0\0" + LONG)),
        _uri(_png_with(b"iTXt", b"workflow\0\1\0\0\0" + LONG)),
        _uri(_png_with(b"iCCP", b"icc\0\0" + zlib.compress(bytes(1_100_000)))),
    ],
}


@pytest.mark.parametrize("case", CASES)
def test_a_picture_that_browsers_show_is_answered(quick_gate: Gate, case: str) -> None:
    uris = CASES[case]
    answer = quick_gate.http.post("/v1/chat", json={"message": "What is shown?", "images": uris})
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["certificates"]) == len(uris)
