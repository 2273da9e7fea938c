"""The float resize compared with the checkpoint's 8-bit processor: `smoothgate bench resize`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.nn import functional as F  # noqa: N812

from smoothgate.pictures.images import DecodedImage
from smoothgate.vision.adapter import VisionAdapter

SIZES = ((48, 48), (200, 133), (480, 640), (1200, 900))
KINDS = ("smooth", "white noise")


@torch.no_grad()
def run(adapter: VisionAdapter, seed: int = 0) -> list[dict[str, Any]]:
    """Compare both for each kind of picture and each size.

    Returns:
        Rows of `kind`, `height`, `width`, `mean` and `max` (absolute difference of the two canvases, in
        1/255), and `cosine` (of their visual tokens, not centred).
    """
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for kind in KINDS:
        for height, width in SIZES:
            image = DecodedImage(_picture(kind, height, width, rng), "PNG", "")
            ours, theirs = adapter.canvas(image).x, adapter.canvas_native(image)
            difference = (ours - theirs).abs() * 255
            tokens = adapter.tokens(torch.stack([ours, theirs]).to(adapter.device)).float().flatten(1)
            rows.append(
                {
                    "kind": kind,
                    "height": height,
                    "width": width,
                    "mean": float(difference.mean()),
                    "max": float(difference.max()),
                    "cosine": float(F.cosine_similarity(tokens[0], tokens[1], dim=0)),
                }
            )
    return rows


def _picture(kind: str, height: int, width: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    if kind == "white noise":
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
