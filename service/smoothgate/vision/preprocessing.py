"""The settings of a checkpoint's image processor, or the reason why they are not supported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL.Image import Resampling

from smoothgate.errors import SmoothgateError
from smoothgate.vision.resize import FILTERS, LinearResize, resize_matrix

_PROCESSORS = ("CLIPImageProcessor", "SiglipImageProcessor", "LlavaImageProcessor")


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """The settings of a CLIP, SigLIP or LLaVA image processor that determine canvas and normalisation.

    Attributes:
        resize: (height, width) to resize to. A single number is the length of the shorter side; the aspect
            ratio is then kept.
        crop: (height, width) of the centre crop, or None. It is padded with black if the image is smaller.
        filter: one of `resize.FILTERS`.
        background: colour in [0, 1] with which an image is first padded to a square, or None.
        mean, std: per-channel constants of the normalisation that follows the canvas.
    """

    resize: tuple[int, int] | tuple[int]
    crop: tuple[int, int] | None
    filter: str
    background: tuple[float, float, float] | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def canvas(self) -> tuple[int, int]:
        """(height, width) of every canvas."""
        if self.crop is not None:
            return self.crop
        return (self.resize[0], self.resize[-1])

    def linear_resize(self, height: int, width: int) -> LinearResize:
        """The linear map for uploads of `height` x `width` pixels."""
        square = self.background is not None
        padded = (max(height, width),) * 2 if square else (height, width)
        target = self.resize
        if len(target) == 1:
            target = _keeping_aspect(target[0], *padded)
        canvas = self.crop or target
        axes = []
        for given, source, resized, length in zip((height, width), padded, target, canvas, strict=True):
            # The processors truncate odd differences towards zero.
            start = int((resized - length) / 2)
            matrix = resize_matrix(source, resized, self.filter, start, length)
            before = (source - given) // 2
            axes.append(matrix[:, before : before + given])
        return LinearResize.from_matrices(axes[0], axes[1], self.background or (0.0, 0.0, 0.0))


def from_processor(processor: Any) -> Preprocessing:
    """Read a `transformers` image processor.

    Raises:
        SmoothgateError: code `unsupported_model`: a setting asks for something that is not implemented as a
            linear map, or the canvas would have no fixed size.
    """
    name = type(processor).__name__
    base = name.removesuffix("Fast").removesuffix("Pil")
    if base not in _PROCESSORS:
        raise unsupported(f"its image processor {name} is none of {', '.join(_PROCESSORS)}")
    require_rescaled(processor)
    if processor.do_pad and base != "LlavaImageProcessor":
        raise unsupported(f"do_pad is on for {name}")

    size = {key: value for key, value in dict(processor.size).items() if value is not None}
    resize: tuple[int, int] | tuple[int]
    if size.keys() == {"height", "width"}:
        resize = (size["height"], size["width"])
    elif size.keys() == {"shortest_edge"}:
        resize = (size["shortest_edge"],)
    else:
        raise unsupported(f"size is {size}: neither shortest_edge alone nor height and width")
    crop = None
    if processor.do_center_crop:
        crop = (processor.crop_size["height"], processor.crop_size["width"])
    elif len(resize) == 1 and not processor.do_pad:
        raise unsupported("size is a shortest_edge without a centre crop: the canvas has no fixed size")
    if processor.do_pad and crop is not None and (crop[0] > resize[0] or crop[1] > resize[-1]):
        raise unsupported("do_pad is on and crop_size is larger than size: the border has two colours")

    filter_ = filter_of(processor)
    red, green, blue = processor.image_mean
    # LlavaImageProcessor pads the 8-bit image, so it truncates the mean to 8 bits.
    background = (int(red * 255) / 255, int(green * 255) / 255, int(blue * 255) / 255)
    return Preprocessing(
        resize=resize,
        crop=crop,
        filter=filter_,
        background=background if processor.do_pad else None,
        mean=(red, green, blue),
        std=tuple(processor.image_std),
    )


def _keeping_aspect(shortest_edge: int, height: int, width: int) -> tuple[int, int]:
    longest_edge = int(shortest_edge * max(height, width) / min(height, width))
    return (shortest_edge, longest_edge) if height <= width else (longest_edge, shortest_edge)


def require_rescaled(processor: Any) -> None:
    """Refuse an image processor that does not resize, scale to [0, 1] and normalise.

    Raises:
        SmoothgateError: code `unsupported_model`.
    """
    for step in ("do_resize", "do_rescale", "do_normalize"):
        if not getattr(processor, step):
            raise unsupported(f"{step} is off")
    if abs(processor.rescale_factor * 255 - 1) > 1e-6:
        raise unsupported(f"rescale_factor is {processor.rescale_factor}, not 1/255")


def filter_of(processor: Any) -> str:
    """The kernel that an image processor resizes with, one of `FILTERS`.

    Raises:
        SmoothgateError: code `unsupported_model`: the kernel is another one.
    """
    name = _filter_name(processor.resample)
    if name not in FILTERS:
        raise unsupported(f"resample is {name}, none of {', '.join(FILTERS)}")
    return name


def _filter_name(resample: Any) -> str:
    if resample is None:
        return "bilinear"
    if isinstance(resample, int):
        return Resampling(resample).name.lower()
    return str(getattr(resample, "value", resample))  # torchvision's InterpolationMode


def unsupported(reason: str) -> SmoothgateError:
    """The error for a checkpoint that cannot be loaded."""
    return SmoothgateError(f"This checkpoint cannot be served: {reason}.", code="unsupported_model")
