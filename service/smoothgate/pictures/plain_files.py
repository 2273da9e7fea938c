"""PNG and JPEG files without their metadata, so that metadata cannot decide whether a picture is read.

Pillow refuses a file for an EXIF block, a text or a profile that it cannot read, or that is too long.
Browsers show such a file. Only what pixels are made of is kept here, and the EXIF block is handed out apart.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_GREY, _RGB = 0, 2

_JPEG = b"\xff\xd8"
_SCAN = 0xDA
_COMMENT = 0xFE
_EXIF = 0xE1
_APPLICATION = range(0xE0, 0xF0)
# These two say how colours are stored. One that is shorter says nothing, and Pillow cannot read it.
_COLOUR_BYTES = {0xE0: 14, 0xEE: 12}


@dataclass(frozen=True, slots=True)
class PlainFile:
    """A file without metadata.

    Attributes:
        data: the file. Whatever is wrong with its pixels is still wrong.
        exif: the EXIF block of the file as it was, if that is known.
        animated: whether a PNG is an animation. Its frames after the first are left out.
    """

    data: bytes
    exif: bytes | None = None
    animated: bool = False


def without_metadata(data: bytes) -> PlainFile:
    """A PNG or a JPEG without metadata; another file as it is."""
    if data.startswith(_PNG):
        return _plain_png(data)
    if data.startswith(_JPEG):
        return _plain_jpeg(data)
    return PlainFile(data)


def _plain_png(data: bytes) -> PlainFile:
    kept = [_PNG]
    exif = None
    animated = False
    depth = colour = 0
    at = len(_PNG)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        chunk = data[at : at + length + 12] if kind in _PNG_PIXELS else b""
        if kind == b"IHDR" and len(chunk) >= 18:
            depth, colour = chunk[16], chunk[17]
        elif kind == b"tRNS":
            chunk = _scaled_transparency(chunk, depth, colour)
        elif kind == b"eXIf":
            exif = data[at + 8 : at + 8 + length]
        elif kind == b"acTL":
            animated = True
        kept.append(chunk)
        if kind == b"IEND":
            break
        at += length + 12
    return PlainFile(b"".join(kept), exif, animated)


def _scaled_transparency(chunk: bytes, depth: int, colour: int) -> bytes:
    """The transparent colour on the scale of 8 bits. Pillow compares it with pixels of that scale."""
    if colour == _GREY and depth in (2, 4) and len(chunk) == 14:
        (value,) = struct.unpack_from(">H", chunk, 8)
        body = struct.pack(">H", value % 2**depth * 255 // (2**depth - 1))
    elif colour == _RGB and depth == 16 and len(chunk) == 18:
        body = bytes(byte for high in chunk[8:14:2] for byte in (0, high))
    else:
        return chunk
    return struct.pack(">I", len(body)) + b"tRNS" + body + struct.pack(">I", zlib.crc32(b"tRNS" + body))


def _plain_jpeg(data: bytes) -> PlainFile:
    kept = [_JPEG]
    exif = None
    at = len(_JPEG)
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # filling
            at += 1
            continue
        if marker == _SCAN:
            break
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        body = data[at + 4 : end]
        if marker in _COLOUR_BYTES:
            is_kept = len(body) >= _COLOUR_BYTES[marker]
        else:
            is_kept = marker not in _APPLICATION and marker != _COMMENT
        if is_kept:
            kept.append(data[at:end])
        elif marker == _EXIF and exif is None and body.startswith(b"Exif\0"):
            exif = body
        at = end
    kept.append(data[at:])
    return PlainFile(b"".join(kept), exif)
