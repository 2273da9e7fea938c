import base64
import hashlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from smoothgate.errors import MalformedRequest, TooLarge, Unacceptable
from smoothgate.vision.images import MAX_ASPECT_RATIO, DecodedImage, decode, parse_data_uri

MAX_PIXELS = 10_000
RNG = np.random.default_rng(7)
PIXELS = np.asarray(
    Image.fromarray(RNG.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize(
        (60, 50), Image.Resampling.BICUBIC
    )
)


def encode(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def read(data: bytes) -> DecodedImage:
    return decode(data, max_pixels=MAX_PIXELS, param="images.0")


def png(width: int, height: int) -> bytes:
    """A PNG of some 60 bytes that claims any size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("file_format", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 95})]
)
def test_decodes_every_permitted_format(file_format: str, options: dict[str, object]) -> None:
    data = encode(Image.fromarray(PIXELS), file_format, **options)
    image = read(data)
    assert image.format == file_format
    assert image.sha256 == hashlib.sha256(data).hexdigest()
    assert (image.height, image.width) == (50, 60)
    assert image.pixels.dtype == np.uint8
    error = np.abs(image.pixels.astype(int) - PIXELS)
    assert error.max() == 0 if file_format != "JPEG" else error.mean() < 3


def test_gif_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    image = read(data)
    assert image.format == "GIF"
    assert (image.pixels == (255, 0, 0)).all()


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_animated_png_and_webp_are_refused(file_format: str) -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "blue")]
    data = encode(frames[0], file_format, save_all=True, append_images=frames[1:], duration=100)
    with pytest.raises(Unacceptable, match="Animated") as caught:
        read(data)
    assert (caught.value.code, caught.value.param) == ("invalid_image", "images.0")


def test_jpeg_with_previews_is_a_jpeg() -> None:
    first = Image.fromarray(PIXELS)
    data = encode(first, "MPO", save_all=True, append_images=[Image.new("RGB", (30, 30))], quality=95)
    image = read(data)
    assert image.format == "JPEG"
    assert np.abs(image.pixels.astype(int) - PIXELS).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(orientation: int) -> None:
    # The pixels that a camera stores with this orientation for an upright picture.
    stored = {
        1: PIXELS,
        2: PIXELS[:, ::-1],
        3: PIXELS[::-1, ::-1],
        4: PIXELS[::-1],
        5: PIXELS.transpose(1, 0, 2),
        6: np.rot90(PIXELS),
        7: PIXELS.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(PIXELS, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)
    assert np.array_equal(read(data).pixels, PIXELS)


def test_alpha_is_flattened_on_white() -> None:
    alpha = np.zeros((4, 6, 4), dtype=np.uint8)
    alpha[:, 2:4] = (0, 0, 0, 128)
    alpha[:, 4:] = (10, 20, 30, 255)
    for data in (encode(Image.fromarray(alpha)), encode(Image.fromarray(alpha), "WEBP", lossless=True)):
        pixels = read(data).pixels
        assert (pixels[:, :2] == 255).all()
        assert (pixels[:, 2:4] == 127).all()
        assert (pixels[:, 4:] == (10, 20, 30)).all()


def test_palette_and_its_transparency() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    assert read(encode(image)).pixels.tolist() == [[[255, 0, 0], [0, 255, 0]]]
    assert read(encode(image, transparency=0)).pixels.tolist() == [[[255, 255, 255], [0, 255, 0]]]
    assert read(encode(image, transparency=b"\x00\xff")).pixels.tolist() == [[[255, 255, 255], [0, 255, 0]]]


def test_grey_bilevel_and_grey_with_alpha() -> None:
    grey = Image.fromarray(np.array([[0, 100, 255]], dtype=np.uint8))
    assert read(encode(grey)).pixels[0, :, 0].tolist() == [0, 100, 255]
    assert read(encode(grey.convert("1"))).pixels.shape == (1, 3, 3)
    with_alpha = Image.merge("LA", (grey, Image.new("L", grey.size, 0)))
    assert (read(encode(with_alpha)).pixels == 255).all()


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    values = np.array([[0, 257 * 100, 257 * 100 + 128, 65535]], dtype=np.uint16)
    assert read(encode(Image.fromarray(values))).pixels[0, :, 1].tolist() == [0, 100, 100, 255]
    transparent = read(encode(Image.fromarray(values), transparency=257 * 100))
    assert transparent.pixels[0, :, 1].tolist() == [0, 255, 100, 255]


def test_cmyk_is_converted() -> None:
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    pixels = read(encode(image, "JPEG", quality=100)).pixels
    assert np.abs(pixels.astype(int) - (255, 0, 0)).max() < 12


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "GIF"])
def test_truncated_files_are_refused(file_format: str) -> None:
    data = encode(Image.fromarray(PIXELS), file_format)
    for share in (0.1, 0.5, 0.9):
        with pytest.raises(Unacceptable) as caught:
            read(data[: int(len(data) * share)])
        assert (caught.value.code, caught.value.param) == ("invalid_image", "images.0")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        encode(Image.fromarray(PIXELS), "BMP"),
        encode(Image.fromarray(PIXELS), "TIFF"),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        png(0, 5),
    ],
    ids=["empty", "text", "svg", "bmp", "tiff", "eps", "no-width"],
)
def test_other_formats_are_refused(data: bytes) -> None:
    with pytest.raises(Unacceptable) as caught:
        read(data)
    assert caught.value.code == "invalid_image"


def test_corrupt_bytes_never_raise_anything_else() -> None:
    rng = np.random.default_rng(0)
    outcomes: set[type] = set()
    for file_format in ("PNG", "JPEG", "WEBP", "GIF"):
        data = encode(Image.fromarray(PIXELS[:20, :20]), file_format)
        for _ in range(250):
            mutated = bytearray(data)
            for place in rng.integers(0, min(len(data), int(rng.choice([40, len(data)]))), 3):
                mutated[place] = rng.integers(0, 256)
            try:
                outcomes.add(type(read(bytes(mutated))))
            except (Unacceptable, TooLarge) as error:
                outcomes.add(type(error))
    assert outcomes == {DecodedImage, Unacceptable, TooLarge}


def test_size_limit_is_exact() -> None:
    assert read(encode(Image.new("RGB", (100, 100)))).width == 100
    with pytest.raises(TooLarge) as caught:
        read(encode(Image.new("RGB", (101, 100))))
    assert (caught.value.code, caught.value.param) == ("image_too_large", "images.0")


@pytest.mark.parametrize("side", [200, 12_000, 60_000])
def test_size_is_read_from_the_header(side: int) -> None:
    # The file has no pixels, so decoding it would make this an invalid image. The larger two sizes also
    # trigger Pillow's own warning and error.
    with pytest.raises(TooLarge):
        read(png(side, side))


def test_strips_are_refused() -> None:
    assert read(encode(Image.new("RGB", (MAX_ASPECT_RATIO, 1)))).height == 1
    for size in ((MAX_ASPECT_RATIO + 1, 1), (1, MAX_ASPECT_RATIO + 1)):
        with pytest.raises(Unacceptable, match="strip"):
            read(encode(Image.new("RGB", size)))


def uri(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize(
    "prefix",
    ["data:image/png;base64,", "DATA:Image/PNG;BASE64,", "data:image/jpeg;charset=utf-8;base64,"],
)
def test_data_uri_is_decoded(prefix: str) -> None:
    data = bytes(range(256))
    assert parse_data_uri(prefix + base64.b64encode(data).decode(), max_bytes=256) == data


@pytest.mark.parametrize("length", range(8, 14))
def test_data_uri_size_limit(length: int) -> None:
    assert parse_data_uri(uri(bytes(length)), max_bytes=length) == bytes(length)
    with pytest.raises(TooLarge) as caught:
        parse_data_uri(uri(bytes(length)), max_bytes=length - 1, param="images.1")
    assert caught.value.param == "images.1"


@pytest.mark.parametrize(
    "payload", ["QUJD\n", "QUJ", "QUI=QUI=", "QU-_", "====", "Q", "%51UJD", "QUJD\u00e9", " QUJD"]
)
def test_wrong_base64_is_refused(payload: str) -> None:
    with pytest.raises(MalformedRequest) as caught:
        parse_data_uri("data:image/png;base64," + payload, max_bytes=100, param="images.0")
    assert (caught.value.code, caught.value.param) == ("invalid_base64", "images.0")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "data:",
        "QUJD",
        "data:image/png,QUJD",
        "data:image/png;base64",
        "https://example.org/a.png",
        "file:a.png",
    ],
)
def test_what_is_no_data_uri_is_refused(text: str) -> None:
    with pytest.raises(MalformedRequest) as caught:
        parse_data_uri(text, max_bytes=100)
    assert caught.value.code == "invalid_data_uri"


@pytest.mark.parametrize("media_type", ["", "text/html", "image/svg+xml", "image/bmp", "video/mp4"])
def test_other_media_types_are_refused(media_type: str) -> None:
    with pytest.raises(Unacceptable) as caught:
        parse_data_uri(uri(b"ABC", media_type), max_bytes=100)
    assert caught.value.code == "unsupported_media_type"
