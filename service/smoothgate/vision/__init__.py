"""From images to canvases x and visual tokens h(x), with one adapter per model family."""

import smoothgate.compat.repaired_imports  # noqa: F401
from smoothgate.pictures.images import DecodedImage, decode, parse_data_uri
from smoothgate.vision.adapter import Canvas, Layout, Prompt, VisionAdapter
from smoothgate.vision.devices import devices_named
from smoothgate.vision.families import family_of, hide_progress, load, require_checkpoint

__all__ = [
    "Canvas",
    "DecodedImage",
    "Layout",
    "Prompt",
    "VisionAdapter",
    "decode",
    "devices_named",
    "family_of",
    "hide_progress",
    "load",
    "parse_data_uri",
    "require_checkpoint",
]
