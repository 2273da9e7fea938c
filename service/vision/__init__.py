"""Images in, canvas x and visual tokens h(x) out: one adapter per model family."""

from service.vision.adapter import Canvas, VisionAdapter, load
from service.vision.images import DecodedImage, decode, parse_data_uri

__all__ = ["Canvas", "DecodedImage", "VisionAdapter", "decode", "load", "parse_data_uri"]
