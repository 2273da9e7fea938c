"""Pictures of every permitted kind, and what becomes of them when bytes are changed."""

import base64
import io
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from tests.fuzz.request import FEW_TOKENS, LEAST, Json, Request, form, form_request, json_request

SOURCE = "images"

_PNG = b"\x89PNG\r\n\x1a\n"
_SIZE = (44, 36)
_TIMES = (1, 1, 1, 2, 2, 3, 5)
# First column, first row, step across, step down of the seven passes of an interlaced PNG.
_ADAM7 = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2),
)  # fmt: skip


@cache
def pictures() -> dict[str, bytes]:
    """Valid small pictures by kind."""
    colour = Image.fromarray(_pixels())
    grey = colour.convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    alpha = colour.copy()
    alpha.putalpha(grey)
    turned = Image.Exif()
    turned[0x0112] = 6
    return {
        "png": _saved(colour, "PNG"),
        "png grey": _saved(grey, "PNG"),
        "png palette": _saved(colour.quantize(16), "PNG", transparency=3),
        "png 16-bit": _saved(deep, "PNG"),
        "png alpha": _saved(alpha, "PNG"),
        "png interlaced": _interlaced(_pixels()),
        "png 1-bit": _saved(grey.convert("1"), "PNG"),
        "jpeg": _saved(colour, "JPEG"),
        "jpeg grey": _saved(grey, "JPEG"),
        "jpeg progressive": _saved(colour, "JPEG", progressive=True),
        "jpeg cmyk": _saved(colour.convert("CMYK"), "JPEG"),
        "jpeg turned": _saved(colour, "JPEG", exif=turned),
        "webp": _saved(colour, "WEBP", quality=60),
        "webp lossless": _saved(alpha, "WEBP", lossless=True),
        "gif": _saved(colour.quantize(8), "GIF"),
        "gif animated": _saved(grey, "GIF", save_all=True, append_images=[colour, grey.rotate(90)]),
        "webp animated": _saved(colour, "WEBP", save_all=True, append_images=[grey.convert("RGB")]),
        "png animated": _saved(colour, "PNG", save_all=True, append_images=[colour.rotate(90)]),
    }


@cache
def bombs() -> dict[str, bytes]:
    """Small files that want to become large."""
    return {
        "bomb 30000 x 30000": _black(30_000, 30_000),
        "bomb 3900 x 3900, allowed": _black(3900, 3900),
        "bomb in zTXt": _with_chunk(b"zTXt", b"x\0\0" + _zeros(64 << 20)),
        "bomb in iCCP": _with_chunk(b"iCCP", b"x\0\0" + _zeros(64 << 20)),
        "bomb in iTXt": _with_chunk(b"iTXt", b"x\0\1\0\0\0" + _zeros(64 << 20)),
        "10,000 chunks": _with_chunk(b"tEXt", b"a\0b", times=10_000),
    }


def mutate(rng: Random, data: bytes) -> tuple[list[str], bytes]:
    """Some changes after each other; with each, its name. A PNG's checksums are put right again half of the
    times: what is behind them is not reached otherwise.
    """
    names = []
    for _ in range(rng.choice(_TIMES)):
        change = rng.choice(_CHANGES)
        names.append(change.__name__.strip("_"))
        data = change(rng, data)
    if data.startswith(_PNG) and rng.random() < 0.5:
        names.append("checksums")
        data = _mended(data)
    return names, data


def requests(rng: Random) -> Iterator[Request]:
    """Without end."""
    while True:
        yield _request(rng)


def _request(rng: Random) -> Request:
    what, data = _picture(rng)
    carrier = rng.choice(_CARRIERS)
    request = carrier(what, data, rng)
    if request.headers[0][1].startswith("multipart") and rng.random() < 0.1:
        names, body = mutate(rng, request.body)
        return form_request(SOURCE, f"{what}; the form: {', '.join(names)}", request.path, body)
    return request


def _picture(rng: Random) -> tuple[str, bytes]:
    chance = rng.random()
    if chance < 0.03:
        return rng.choice(list(bombs().items()))
    kind, data = rng.choice(list(pictures().items()))
    if chance < 0.06:
        return kind, data
    names, data = mutate(rng, data)
    return f"{kind}: {', '.join(names)}", data


# How a picture is sent.


def _uri(data: bytes, rng: Random) -> str:
    kind = rng.choice(("png", "jpeg", "webp", "gif"))
    text = base64.b64encode(data).decode()
    if rng.random() < 0.03:
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(("%", "\n", "=", "é", "", "-_")) + text[at + 1 :]
    return f"data:image/{kind};base64,{text}"


def _asking(**fields: Any) -> Json:
    return {"smoothing": LEAST, "max_tokens": FEW_TOKENS, **fields}


def _certify(what: str, data: bytes, rng: Random) -> Request:
    return json_request(SOURCE, what, "/v1/certify", {"images": [_uri(data, rng)], "smoothing": LEAST})


def _chat(what: str, data: bytes, rng: Random) -> Request:
    body = _asking(message="What?", images=[_uri(data, rng)], stream=rng.random() < 0.2)
    return json_request(SOURCE, what, "/v1/chat", body)


def _completions(what: str, data: bytes, rng: Random) -> Request:
    image = {"type": "image_url", "image_url": {"url": _uri(data, rng)}}
    messages = [{"role": "user", "content": [image, {"type": "text", "text": "What?"}]}]
    body = _asking(messages=messages, stream=rng.random() < 0.2)
    return json_request(SOURCE, what, "/v1/chat/completions", body)


def _responses(what: str, data: bytes, rng: Random) -> Request:
    content = [{"type": "input_image", "image_url": _uri(data, rng)}, {"type": "input_text", "text": "What?"}]
    body = {
        "input": [{"role": "user", "content": content}],
        "smoothing": LEAST,
        "max_output_tokens": FEW_TOKENS,
    }
    return json_request(SOURCE, what, "/v1/responses", body | {"stream": rng.random() < 0.2})


def _messages(what: str, data: bytes, rng: Random) -> Request:
    head, _, text = _uri(data, rng).partition(";base64,")
    source = {"type": "base64", "media_type": head.removeprefix("data:"), "data": text}
    content = [{"type": "image", "source": source}, {"type": "text", "text": "What?"}]
    body = _asking(messages=[{"role": "user", "content": content}], stream=rng.random() < 0.2)
    return json_request(SOURCE, what, "/v1/messages", body)


def _embeddings(what: str, data: bytes, rng: Random) -> Request:
    image = {"type": "image_url", "image_url": {"url": _uri(data, rng)}}
    body = {"messages": [{"role": "user", "content": [image]}], "smoothing": LEAST}
    return json_request(SOURCE, what, "/v1/embeddings", body)


def _certify_form(what: str, data: bytes, rng: Random) -> Request:
    return form_request(SOURCE, what, "/v1/certify", form({"smoothing": LEAST}, [data]))


def _chat_form(what: str, data: bytes, rng: Random) -> Request:
    return form_request(SOURCE, what, "/v1/chat", form(_asking(message="What?"), [data]))


_CARRIERS: tuple[Callable[[str, bytes, Random], Request], ...] = (
    _certify, _certify, _certify_form, _certify_form, _chat, _chat_form, _completions, _responses, _messages,
    _embeddings,
)  # fmt: skip


# How bytes are changed.


def _flipped(rng: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(min(len(data), rng.choice((1, 1, 2, 8, 64)))):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _overwritten(rng: Random, data: bytes) -> bytes:
    at, size = rng.randrange(len(data) + 1), rng.choice((1, 2, 4, 32))
    return data[:at] + rng.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * size + data[at + size :]


def _cut(rng: Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + (data[end:] if rng.random() < 0.5 else b"")


def _inserted(rng: Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.choice((1, 2, 16, 256))) + data[at:]


def _repeated(rng: Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + data[start:end] * rng.choice((2, 3, 50)) + data[end:]


def _moved(rng: Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    rest = data[:start] + data[end:]
    at = rng.randrange(len(rest) + 1)
    return rest[:at] + data[start:end] + rest[at:]


def _header(rng: Random, data: bytes) -> bytes:
    """A size, a depth or a count in the header becomes another, most often an extreme one."""
    fields = [field for field in _fields(data) if sum(field) <= len(data)]
    if not fields:
        return _flipped(rng, data) if data else data
    at, size = rng.choice(fields)
    most = (1 << 8 * size) - 1
    value = rng.choice((0, 1, most, most >> 1, most - 1, min(most, 30_000), rng.randint(0, most)))
    return data[:at] + value.to_bytes(size, rng.choice(("big", "little"))) + data[at + size :]


_CHANGES = (_flipped, _flipped, _overwritten, _cut, _inserted, _repeated, _moved, _header, _header)


def _span(rng: Random, data: bytes) -> tuple[int, int]:
    """A chunk where the format has them and chance wills it, or any piece."""
    chunks = _chunks(data)
    if chunks and rng.random() < 0.5:
        return rng.choice(chunks)
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.choice((1, 4, 64, 1024)))


def _fields(data: bytes) -> list[tuple[int, int]]:
    """Where the numbers in the header are: offset and bytes."""
    if data.startswith(_PNG):
        lengths = [(start, 4) for start, _ in _chunks(data)]
        return [(16, 4), (20, 4), *((at, 1) for at in range(24, 29)), *lengths]
    if data.startswith(b"GIF8"):
        descriptor = data.find(b",\0\0\0\0")
        return [(6, 2), (8, 2), (10, 1), *((descriptor + i, 2) for i in (1, 3, 5, 7) if descriptor >= 0)]
    if data.startswith(b"RIFF"):
        return [(4, 4), (16, 4), (20, 1), (21, 2), (24, 3), (26, 2), (27, 3), (28, 2)]
    if data.startswith(b"\xff\xd8"):
        return [
            field
            for start, _ in _chunks(data)
            if start + 10 <= len(data)
            for field in (
                [(start + 4, 1), (start + 5, 2), (start + 7, 2), (start + 9, 1)]
                if data[start + 1] in (0xC0, 0xC1, 0xC2)
                else [(start + 2, 2)]
            )
        ]
    return []


def _chunks(data: bytes) -> list[tuple[int, int]]:
    """The chunks of a PNG, the segments of a JPEG up to its scan; start and end."""
    found = []
    if data.startswith(_PNG):
        at = len(_PNG)
        while at + 12 <= len(data):
            end = at + 12 + int.from_bytes(data[at : at + 4], "big")
            if end > len(data):
                break
            found.append((at, end))
            at = end
    elif data.startswith(b"\xff\xd8"):
        at = 2
        while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
            end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            found.append((at, min(end, len(data))))
            at = end
    return found


def _mended(data: bytes) -> bytes:
    changed = bytearray(data)
    for start, end in _chunks(data):
        changed[end - 4 : end] = struct.pack(">I", zlib.crc32(data[start + 4 : end - 4]))
    return bytes(changed)


# How pictures are made.


def _pixels() -> np.ndarray[Any, np.dtype[np.uint8]]:
    width, height = _SIZE
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 5, y * 7, (x * y) % 256], axis=-1).astype(np.uint8)


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _interlaced(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    """Pillow reads interlaced PNGs but writes none."""
    height, width, _ = pixels.shape
    rows = [
        b"\0" + row.tobytes()
        for x, y, across, down in _ADAM7
        for row in pixels[y::down, x::across]
        if row.size
    ]
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    return _png(header, zlib.compress(b"".join(rows)))


def _black(width: int, height: int) -> bytes:
    """A PNG of one bit per pixel."""
    return _png(
        struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0), _zeros((1 + (width + 7) // 8) * height)
    )


def _png(header: bytes, data: bytes) -> bytes:
    return _PNG + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _with_chunk(kind: bytes, data: bytes, times: int = 1) -> bytes:
    whole = pictures()["png grey"]
    end = len(_PNG) + 25
    return whole[:end] + _chunk(kind, data) * times + whole[end:]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _zeros(size: int) -> bytes:
    """So many zero bytes, deflated."""
    deflating = zlib.compressobj(1)
    piece = bytes(1 << 20)
    parts = [deflating.compress(piece[: min(len(piece), size - at)]) for at in range(0, size, len(piece))]
    return b"".join(parts) + deflating.flush()
