"""`python -m smoothgate_lab.demo.likeness_ranges`: the figures of held-out pictures.

The ranges of `smoothgate.demo.likeness` are read off them.
"""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import torch
from rich.progress import track

from smoothgate.bundled import DEMO
from smoothgate.demo.likeness import likeness
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.vision import DecodedImage, load
from smoothgate_lab.demo.demo_evaluation import labelled_scenes, plain_pictures

_SCENES = 600
_PLAIN = 200
_SEED = 1


def main() -> None:
    """Measure, and print percentiles."""
    encoder = UnitEncoder.load(load(str(DEMO.model), device="cpu", dtype=torch.float32), DEMO.psm)
    scenes, _ = labelled_scenes("held-out", _SCENES, _SEED)
    pictures = [scene.picture for scene in scenes]
    pictures += [picture for picture, _ in plain_pictures(_PLAIN, _SEED)]
    canvases = (encoder.adapter.canvas(DecodedImage(np.asarray(one), "PNG", "")).x for one in pictures)
    found = np.array([astuple(likeness(encoder, x)) for x in track(canvases, "Measuring", len(pictures))])
    print("percentile  repainted  strength  agreement")
    for percentile in (0, 0.5, 1, 50, 99, 99.5, 100):
        figures = np.percentile(found, percentile, axis=0)
        print(f"{percentile:10g}  {figures[0]:9.3f}  {figures[1]:8.2f}  {figures[2]:9.2f}")


if __name__ == "__main__":
    main()
