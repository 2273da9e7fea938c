"""Certificates of version 1 with their pictures; `version_1/README.md` says how they were made."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from smoothgate.bundled import DEMO
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.vision import load

FOLDER = Path(__file__).parent / "version_1"
#: Certificate and picture.
PICTURES = {
    "bounded": "seven.png",
    "target-met": "seven.jpeg",
    "target-missed": "odd.png",
    "vacuous": "odd.png",
}


@dataclass(frozen=True)
class Vector:
    """A certificate as it was handed out, and its picture."""

    jws: str
    shown: dict[str, Any]
    picture: bytes


def vector(name: str) -> Vector:
    issued = json.loads((FOLDER / f"{name}.json").read_text())
    return Vector(issued.pop("jws"), issued, (FOLDER / PICTURES[name]).read_bytes())


def keys() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "keys.json").read_text())
    return found


def encoder(folder: Path) -> UnitEncoder:
    """The bundled model and PSM with the calibration of that release; `folder` is a place for a copy."""
    shutil.copytree(DEMO.psm, folder, dirs_exist_ok=True)
    shutil.copy(FOLDER / "calibration.safetensors", folder)
    adapter = load(str(DEMO.model), device="cpu", dtype=torch.float32)
    return UnitEncoder.load(adapter, folder)
