"""A tiny random checkpoint of a family, calibrated, and the settings that serve it."""

from pathlib import Path
from typing import Any

import torch

from smoothgate.psm.calibration import calibrate
from smoothgate.settings import PREFIX
from smoothgate.vision import DecodedImage, load
from tests.families import checkpoints
from tests.families.pictures import picture

SIGMA = 0.1
#: A family whose canvases have free sizes.
FREE_SIZES = "qwen2_5_vl"
#: The most pixels of a canvas that `free_sizes` allows. The checkpoint itself would take 96 x 96.
MOST_PIXELS = 64 * 64


def write(name: str, folder: Path) -> dict[str, Any]:
    """Write the checkpoint of a family and its calibration into a folder.

    Returns:
        The settings that serve it, by the names that `Settings` takes.
    """
    path, psm = folder / "model", folder / "psm"
    checkpoints.BUILDERS[name](path)
    _calibrate(path, psm)
    return {
        "model": str(path),
        "psm": psm,
        "served_model_name": name,
        "engine_max_model_len": checkpoints.CONTEXT,
        "sigma": SIGMA,
        "eps": (0.05,),
        "dtype": "float32",
    }


def free_sizes(folder: Path) -> dict[str, str]:
    """Write a checkpoint whose canvases have free sizes, up to `MOST_PIXELS`, into a folder.

    Returns:
        The environment in which `smoothgate serve` serves it.
    """
    settings = write(FREE_SIZES, folder) | {"eps": "0.05", "max_canvas_pixels": MOST_PIXELS}
    return {PREFIX + name.upper(): str(value) for name, value in settings.items()}


def _calibrate(path: Path, folder: Path) -> None:
    adapter = load(str(path), device="cpu", dtype=torch.float32)
    size = (64, 96)
    canvases = [adapter.canvas(DecodedImage(picture(*size, seed), "PNG", "")) for seed in range(16)]
    with torch.no_grad():
        tokens = adapter.tokens(torch.stack([each.x for each in canvases]), canvases[0].layout)
    per_channel = adapter.token_grid is None
    folder.mkdir()
    calibrate([tokens], None, adapter.digest, per_channel=per_channel).save(folder)
