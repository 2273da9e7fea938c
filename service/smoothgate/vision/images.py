"""Uploaded bytes to upright RGB pixels; whatever is not a plain picture of a permitted size is refused.

`to_picture` is the way back, from a canvas to 8 bits.
"""

from __future__ import annotations

import binascii
import hashlib
import io
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from smoothgate.errors import MalformedRequest, RequestError, TooLarge, Unacceptable

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
MEDIA_TYPES = frozenset({"image/png", "image/jpeg", "image/jpg", "image/webp", "image/gif"})

# A resize to a shortest edge scales the other edge too: a strip of one pixel would become a huge image.
MAX_ASPECT_RATIO = 200

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
    """

    pixels: npt.NDArray[np.uint8]
    format: str
    sha256: str

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

    The size is read from the header and checked before any pixel is decoded. An animated GIF gives its first
    frame; animated PNG and WebP are refused. 16-bit samples are reduced to 8 bits. CMYK is converted without
    a profile.

    Args:
        data: the file as uploaded.
        max_pixels: the largest width x height that is decoded.
        param: the request field that held the image. Errors name it.

    Raises:
        Unacceptable: the data is not an image of a permitted format, or it is truncated, corrupt, animated or
            a strip.
        TooLarge: the image has more than `max_pixels` pixels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_header(image, max_pixels, param)
            pixels = np.asarray(_rgb(_upright(image)))
            # Pillow may find while it reads that a file is an MPO, which is a JPEG followed by previews.
            name = "JPEG" if image.format == "MPO" else str(image.format)
    except RequestError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        _refuse_size(max_pixels, param)
    except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error and more on hostile bytes.
        raise Unacceptable(
            "The image could not be decoded: it is truncated, corrupt, or not a PNG, JPEG, WebP or GIF.",
            param=param,
            code="invalid_image",
        ) from error
    return DecodedImage(pixels=pixels, format=name, sha256=hashlib.sha256(data).hexdigest())


def parse_data_uri(uri: str, *, max_bytes: int, param: str | None = None) -> bytes:
    """The bytes of a `data:image/...;base64,...` URI (RFC 2397; base64 strictly as in RFC 4648).

    Raises:
        MalformedRequest: this is no base64 data URI (`invalid_data_uri`), or its base64 is wrong
            (`invalid_base64`).
        Unacceptable: the media type is not one of `MEDIA_TYPES`.
        TooLarge: there are more than `max_bytes` bytes. The length of the text shows this before decoding.
    """
    header, comma, payload = uri.partition(",")
    scheme, _, parameters = header.lower().partition(":")
    media_type, *attributes = parameters.split(";")
    if not comma or scheme.strip() != "data" or not attributes or attributes[-1].strip() != "base64":
        raise MalformedRequest(
            "An image must be a data URI of the form data:image/png;base64,....",
            param=param,
            code="invalid_data_uri",
        )
    if media_type.strip() not in MEDIA_TYPES:
        raise Unacceptable(
            "The media type of an image must be one of " + ", ".join(sorted(MEDIA_TYPES)) + ".",
            param=param,
            code="unsupported_media_type",
        )
    if len(payload) > (max_bytes + 2) // 3 * 4:
        raise TooLarge(f"The image is larger than {max_bytes} bytes.", param=param, code="image_too_large")
    try:
        data = binascii.a2b_base64(payload, strict_mode=True)
    except ValueError as error:
        raise MalformedRequest(
            "The data URI contains invalid base64.", param=param, code="invalid_base64"
        ) from error
    if len(data) > max_bytes:
        raise TooLarge(f"The image is larger than {max_bytes} bytes.", param=param, code="image_too_large")
    return data


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
    if image.format in ("PNG", "WEBP") and getattr(image, "is_animated", False):
        raise Unacceptable("Animated PNG and WebP are not accepted.", param=param, code="invalid_image")


def _refuse_size(max_pixels: int, param: str | None) -> NoReturn:
    raise TooLarge(f"The image has more than {max_pixels} pixels.", param=param, code="image_too_large")


def _upright(image: Image.Image) -> Image.Image:
    # ImageOps.exif_transpose also rewrites the rest of the EXIF block, and fails if that is broken.
    method = _UPRIGHT.get(image.getexif().get(_ORIENTATION_TAG, 1))
    return image if method is None else image.transpose(method)


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
