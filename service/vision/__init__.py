"""Images in, canvas x and visual tokens h(x) out: one adapter per model family."""

from service.vision.adapter import Canvas, Layout, Prompt, VisionAdapter
from service.vision.families import family_of, load
from service.vision.images import DecodedImage, decode, parse_data_uri

__all__ = [
    "Canvas",
    "DecodedImage",
    "Layout",
    "Prompt",
    "VisionAdapter",
    "decode",
    "family_of",
    "load",
    "parse_data_uri",
]
