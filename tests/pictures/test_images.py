import base64
import hashlib
import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from smoothgate.errors import MalformedRequest, TooLarge, Unacceptable
from smoothgate.pictures.images import MAX_ASPECT_RATIO, DecodedImage, decode, parse_data_uri

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


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "GIF"])
def test_an_animation_gives_its_first_frame_and_says_so(file_format: str) -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encode(frames[0], file_format, save_all=True, append_images=frames[1:], duration=100, **options)
    image = read(data)
    assert (image.pixels == (255, 0, 0)).all()
    assert image.animated
    assert not read(encode(frames[0], file_format)).animated


def test_an_animation_whose_second_frame_is_broken_gives_its_first() -> None:
    frames = [Image.fromarray(PIXELS), Image.fromarray(PIXELS[::-1].copy())]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    image = read(data[: len(data) * 3 // 4])
    assert image.animated
    assert np.array_equal(image.pixels, read(encode(frames[0], "GIF")).pixels)


UNREADABLE = b"http://ns.adobe.com/xap/1.0/\0<x/>"


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def png_with(*chunks: bytes) -> bytes:
    data = encode(Image.fromarray(PIXELS))
    return data[:33] + b"".join(chunks) + data[33:]


def jpeg_with(*segments: bytes, **options: object) -> bytes:
    data = encode(Image.fromarray(PIXELS), "JPEG", quality=95, **options)
    return data[:2] + b"".join(segments) + data[2:]


LONG = zlib.compress(bytes(1_100_000))


@pytest.mark.parametrize(
    "data",
    [
        # https://github.com/python-pillow/Pillow/issues/5528, 4676 and 8348
        jpeg_with(segment(0xE1, b"Exif\0\0" + UNREADABLE)),
        jpeg_with(segment(0xE1, b"Exif\0\0" + UNREADABLE), dpi=(72, 72)),
        jpeg_with(segment(0xE1, b"Exif\0\0")),
        jpeg_with(segment(0xE2, b"MPF\0" + UNREADABLE)),
        jpeg_with(segment(0xE2, b"ICC_PROFILE\0" + b"\2\0")),
        jpeg_with(segment(0xED, b"Photoshop 3.0\x008BIM\4\4\0\0\xff\xff\xff\xff")),
        jpeg_with(segment(0xE0, b"JFIF")),
        jpeg_with(segment(0xEE, b"Adobe")),
        png_with(chunk(b"eXIf", UNREADABLE)),
        encode(Image.fromarray(PIXELS), "WEBP", lossless=True, exif=b"Exif\0\0" + UNREADABLE),
        # https://github.com/python-pillow/Pillow/issues/8363 and 2445
        png_with(chunk(b"zTXt", b"workflow\0\0" + LONG)),
        png_with(chunk(b"iTXt", b"workflow\0\1\0\0\0" + LONG)),
        png_with(chunk(b"iCCP", b"icc\0\0" + LONG)),
        png_with(*[chunk(b"tEXt", b"a\0" + bytes(2**20))] * 65),
        png_with(chunk(b"iCCP", b"icc\0\0not compressed")),
        png_with(chunk(b"tEXt", b"a\0b")[:-1] + b"?"),
        png_with(chunk(b"pHYs", b"")),
        png_with(chunk(b"gAMA", b"\0")),
        png_with(chunk(b"cHRM", b"\0")),
        png_with(chunk(b"sRGB", b"")),
        png_with(chunk(b"acTL", b"")),
        png_with(chunk(b"acTL", struct.pack(">II", 2, 0)), chunk(b"fcTL", b"\0")),
    ],
    ids=lambda data: data[:3].hex(),
)
def test_metadata_does_not_decide(data: bytes) -> None:
    """Browsers show each of these files."""
    error = np.abs(read(data).pixels.astype(int) - PIXELS)
    assert error.mean() < 3 if data.startswith(b"\xff\xd8") else error.max() == 0


@pytest.mark.parametrize("transform", [0, 1])
def test_the_colours_of_a_jpeg_are_still_read_as_its_adobe_segment_says(transform: int) -> None:
    adobe = segment(0xEE, b"Adobe\0d\0\0\0\0" + bytes([transform]))
    data = encode(Image.fromarray(PIXELS), "JPEG", quality=95)
    without_jfif = data[:2] + adobe + data[20:]
    expected = np.asarray(Image.open(io.BytesIO(without_jfif)))
    assert np.array_equal(read(without_jfif).pixels, expected)
    if transform == 0:
        assert np.abs(expected.astype(int) - PIXELS).mean() > 20


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
    picture = Image.fromarray(np.ascontiguousarray(stored))
    assert np.array_equal(read(encode(picture, "PNG", exif=exif)).pixels, PIXELS)
    assert np.array_equal(read(encode(picture, "WEBP", lossless=True, exif=exif)).pixels, PIXELS)
    jpeg = read(encode(picture, "JPEG", quality=95, exif=exif)).pixels
    assert np.abs(jpeg.astype(int) - PIXELS).mean() < 3


def test_alpha_is_flattened_on_white() -> None:
    alpha = np.zeros((4, 6, 4), dtype=np.uint8)
    alpha[:, 2:4] = (0, 0, 0, 128)
    alpha[:, 4:] = (10, 20, 30, 255)
    for data in (encode(Image.fromarray(alpha)), encode(Image.fromarray(alpha), "WEBP", lossless=True)):
        pixels = read(data).pixels
        assert (pixels[:, :2] == 255).all()
        assert (pixels[:, 2:4] == 127).all()
        assert (pixels[:, 4:] == (10, 20, 30)).all()


@pytest.mark.parametrize(
    ("mode", "samples"),
    [
        ("RGB", "rgb"),
        ("L", "grey"),
        ("1", "grey"),
        ("P", "palette"),
        ("RGBA", "alpha"),
        ("LA", "alpha"),
        ("I;16", "16-bit"),
    ],
)
def test_what_the_samples_of_a_file_are_is_said(mode: str, samples: str) -> None:
    data = io.BytesIO()
    Image.new(mode, (8, 8)).save(data, "PNG")
    assert decode(data.getvalue(), max_pixels=100).samples == samples


def test_a_transparent_colour_counts_as_alpha_and_cmyk_is_named() -> None:
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "PNG", transparency=(0, 0, 0))
    assert decode(data.getvalue(), max_pixels=100).samples == "alpha"
    data = io.BytesIO()
    Image.new("CMYK", (8, 8)).save(data, "JPEG")
    assert decode(data.getvalue(), max_pixels=100).samples == "cmyk"
    data = io.BytesIO()
    Image.new("L", (8, 8)).save(data, "JPEG")
    assert decode(data.getvalue(), max_pixels=100).samples == "grey"


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


@pytest.mark.parametrize(
    ("depth", "colour", "row", "transparent", "expected"),
    [
        (1, 0, b"\xc0", (1,), [255, 255, 0, 0]),
        (2, 0, b"\x1b", (2,), [0, 85, 255, 255]),
        (4, 0, b"\x1b\x17", (1,), [255, 187, 255, 119]),
        (8, 0, bytes([1, 2, 3, 4]), (3,), [1, 2, 255, 4]),
        (
            16,
            2,
            struct.pack(">12H", *[257] * 3, *[512] * 3, *[1024] * 3, *[2048] * 3),
            (512,) * 3,
            [1, 255, 4, 8],
        ),
    ],
)
def test_the_transparent_colour_of_a_png(
    depth: int, colour: int, row: bytes, transparent: tuple[int, ...], expected: list[int]
) -> None:
    """Pillow compares the colour as it stands in the file with pixels that were scaled to 8 bits."""
    header = struct.pack(">IIBBBBB", 4, 1, depth, colour, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    data += chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent))
    data += chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    assert read(data).pixels[0, :, 0].tolist() == expected


def test_a_png_without_its_end_is_taken() -> None:
    data = encode(Image.fromarray(PIXELS))
    for missing in (1, 4, 12):
        assert np.array_equal(read(data[:-missing]).pixels, PIXELS)


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


@pytest.mark.parametrize("name", ["BMP", "TIFF", "AVIF", "ICO", "PDF"])
def test_the_error_names_a_format_that_is_not_taken(name: str) -> None:
    with pytest.raises(Unacceptable, match=f"is a {name} file"):
        read(encode(Image.fromarray(PIXELS), name))


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


# What clients write, whatever the file is: https://github.com/open-webui/open-webui/issues/28411
LABELS = ("", "image", "image/*", "application/octet-stream", "image/heic", "image/pjpeg", "text/plain")


@pytest.mark.parametrize(
    "prefix",
    [
        "data:image/png;base64,",
        "DATA:Image/PNG;BASE64,",
        "data:image/jpeg;charset=utf-8;base64,",
        " data:image/png ; base64 ,",
        *(f"data:{label};base64," for label in LABELS),
    ],
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


@pytest.mark.parametrize("data", [b"\xfb\xff\xfeA", b"\xfb\xff\xfeAB", bytes(range(256))])
@pytest.mark.parametrize(
    "written",
    [
        lambda text: "\n".join(text[i : i + 3] for i in range(0, len(text), 3)),
        lambda text: "\r\n".join(text[i : i + 3] for i in range(0, len(text), 3)),
        lambda text: f" \t{text}\f\n",
        lambda text: text.rstrip("="),
        lambda text: text.replace("=", "\n=\n"),
        lambda text: text.replace("+", "-").replace("/", "_"),
        lambda text: text.replace("+", "%2B").replace("/", "%2f").replace("=", "%3D"),
    ],
    ids=["lines", "CRLF", "around", "no padding", "padding apart", "for URLs", "escaped"],
)
def test_base64_is_taken_as_programs_write_it(data: bytes, written: Callable[[str], str]) -> None:
    text = written(base64.b64encode(data).decode())
    assert parse_data_uri("data:image/png;base64," + text, max_bytes=len(data)) == data


@pytest.mark.parametrize(
    "payload",
    ["QUI=QUI=", "QUJD====", "====", "Q", "QUJDR", "QU%", "QUJD\u00e9", "QU\u200bJD", "QU.D", "QU\0D"],
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
