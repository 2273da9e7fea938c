"""Uploaded bytes to upright RGB pixels; whatever is not a plain picture of a permitted size is refused.

`to_picture` is the way back, from a canvas to 8 bits.
"""

from __future__ import annotations

import binascii
import hashlib
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NoReturn
from urllib.parse import unquote_to_bytes

import numpy as np
import numpy.typing as npt
from PIL import Image

from smoothgate.errors import MalformedRequest, RequestError, TooLarge, Unacceptable
from smoothgate.pictures.plain_files import without_metadata

if TYPE_CHECKING:
    from torch import Tensor

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")

#: What the samples of a file are. Only from `rgb` and `grey` are the decoded pixels a linear map.
Samples = Literal["rgb", "grey", "alpha", "palette", "16-bit", "cmyk"]

# A resize to a shortest edge scales the other edge too: a strip of one pixel would become a huge image.
MAX_ASPECT_RATIO = 200

_OTHER_FORMATS = {
    rb"BM": "BMP",
    rb"II\*\x00|MM\x00\*": "TIFF",
    rb"....ftypavi[fs]": "AVIF",
    rb"....ftyp(hei|hev|mif1|msf1)": "HEIC",
    rb"\x00\x00\x01\x00": "ICO",
    rb"\xff\x0a|\x00\x00\x00\x0cJXL ": "JPEG XL",
    rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51": "JPEG 2000",
    rb"%PDF": "PDF",
    rb"(\xef\xbb\xbf)?\s*(<\?xml|<svg|<!DOCTYPE svg)": "SVG",
}

_STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")
_WHITE_SPACE = b" \t\n\f\r"

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True, eq=False)
class DecodedImage:
    """A decoded upload.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, upright. Alpha is flattened on white. Colour profiles are ignored.
        format: the format of the upload, one of `FORMATS`.
        sha256: hex digest of the uploaded bytes.
        animated: whether the upload is an animation. The pixels are those of its first frame.
        samples: what the samples of the file are.
    """

    pixels: npt.NDArray[np.uint8]
    format: str
    sha256: str
    animated: bool = False
    samples: Samples = "rgb"

    @property
    def height(self) -> int:
        """Number of rows of the upright image."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Number of columns of the upright image."""
        return int(self.pixels.shape[1])


def decode(data: bytes, *, max_pixels: int, param: str | None = None) -> DecodedImage:
    """Decode one PNG, JPEG, WebP or GIF.

    The size is read from the header and checked before any pixel is decoded. Metadata never decides: only the
    EXIF orientation is used, where it can be read. An animation gives its first frame. 16-bit samples are
    reduced to 8 bits. CMYK is converted without a profile.

    Args:
        data: the file as uploaded.
        max_pixels: the largest width x height that is decoded.
        param: the request field that held the image. Errors name it.

    Raises:
        Unacceptable: the data is not an image of a permitted format, or it is truncated, corrupt or a strip.
        TooLarge: the image has more than `max_pixels` pixels.
        MemoryError: decoding takes more memory than there is.
    """
    plain = without_metadata(data)
    try:
        with Image.open(io.BytesIO(plain.data), formats=FORMATS) as image:
            _check_header(image, max_pixels, param)
            image.load()
            orientation = _orientation(plain.exif or image.info.get("exif"))
            samples = _samples(image)
            pixels = np.asarray(_rgb(_upright(image, orientation)))
            animated = plain.animated or _has_more_frames(image)
            name = str(image.format)
    except (RequestError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        _refuse_size(max_pixels, param)
    except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error and more on hostile bytes.
        raise Unacceptable(_why_undecodable(data), param=param, code="invalid_image") from error
    return DecodedImage(
        pixels=pixels,
        format=name,
        sha256=hashlib.sha256(data).hexdigest(),
        animated=animated,
        samples=samples,
    )


def parse_data_uri(uri: str, *, max_bytes: int, param: str | None = None) -> bytes:
    """The bytes of a `data:...;base64,...` URI. The media type is not read: the bytes say what they are.

    The base64 is read as browsers read it (RFC 2397, WHATWG's "forgiving" decoder): with white space, escapes
    with `%`, and without padding. The alphabet for URLs (RFC 4648, section 5) is taken as well.

    Raises:
        MalformedRequest: this is no base64 data URI (`invalid_data_uri`), or its base64 is wrong
            (`invalid_base64`).
        TooLarge: there are more than `max_bytes` bytes. The length of the text shows this before decoding.
    """
    header, comma, payload = uri.partition(",")
    scheme, _, parameters = header.lower().partition(":")
    attributes = parameters.split(";")[1:]
    if not comma or scheme.strip() != "data" or not attributes or attributes[-1].strip() != "base64":
        raise MalformedRequest(
            "An image must be a data URI of the form data:image/png;base64,....",
            param=param,
            code="invalid_data_uri",
        )
    try:
        text = unquote_to_bytes(payload) if "%" in payload else payload.encode("ascii")
        text = text.translate(_STANDARD_ALPHABET, _WHITE_SPACE)
        text = text.removesuffix(b"=").removesuffix(b"=")
        if len(text) > (max_bytes * 4 + 2) // 3:
            raise TooLarge(
                f"The image is larger than {max_bytes} bytes.", param=param, code="image_too_large"
            )
        if b"=" in text:
            raise ValueError("There is too much padding.")
        return binascii.a2b_base64(text + b"=" * (-len(text) % 4), strict_mode=True)
    except ValueError as error:
        raise MalformedRequest(
            "The data URI contains invalid base64.", param=param, code="invalid_base64"
        ) from error


def _why_undecodable(data: bytes) -> str:
    for start, name in _OTHER_FORMATS.items():
        if re.match(start, data[:64], re.DOTALL):
            return f"The image is a {name} file. This service takes PNG, JPEG, WebP and GIF."
    return "The image could not be decoded: it is truncated, corrupt, or not a PNG, JPEG, WebP or GIF."


def _check_header(image: Image.Image, max_pixels: int, param: str | None) -> None:
    width, height = image.size
    if width * height > max_pixels:
        _refuse_size(max_pixels, param)
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise Unacceptable(
            f"An image of {width} x {height} pixels is a strip: the longer side may be at most "
            f"{MAX_ASPECT_RATIO} times the shorter one.",
            param=param,
            code="invalid_image",
        )


def _refuse_size(max_pixels: int, param: str | None) -> NoReturn:
    raise TooLarge(f"The image has more than {max_pixels} pixels.", param=param, code="image_too_large")


def _orientation(exif: bytes | None) -> int:
    """The EXIF orientation; 1, upright, where the block cannot be read."""
    block = Image.Exif()
    try:
        block.load(exif or b"")
        return int(block.get(_ORIENTATION_TAG, 1))
    except Exception:  # as `decode`
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    method = _UPRIGHT.get(orientation)
    return image if method is None else image.transpose(method)


def _has_more_frames(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # the next frame is broken, as in `decode`
        return True


def _samples(image: Image.Image) -> Samples:
    if image.mode.startswith("I"):
        return "16-bit"
    if image.has_transparency_data:
        return "alpha"
    match image.mode:
        case "P" | "PA":
            return "palette"
        case "CMYK":
            return "cmyk"
        case "1" | "L":
            return "grey"
    return "rgb"


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit greyscale, which Pillow's own conversion clips instead of scaling
        grey = np.asarray(image).astype(np.float64)
        grey[grey == image.info.get("transparency", -1)] = 65535
        return Image.fromarray(np.rint(grey / 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def to_picture(canvas: Tensor) -> Image.Image:
    """An 8-bit RGB picture of a canvas (3, H, W) in [0, 1], each value rounded to the nearest level."""
    return Image.fromarray((canvas * 255).round().byte().permute(1, 2, 0).numpy())
