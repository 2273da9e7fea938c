"""The scenes on which the demo's PSM is trained and calibrated, drawn on demand."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from smoothgate.psm.calibration import Calibration, calibrate
from smoothgate.psm.picture_files import clean_tokens
from smoothgate.vision import DecodedImage, VisionAdapter
from smoothgate_lab.demo import scenes
from smoothgate_lab.demo.conversation import Facts, facts_of
from smoothgate_lab.demo.demo_evaluation import Scene, labelled_scenes
from smoothgate_lab.demo.scenes import Digits, Layout, load_digits
from smoothgate_lab.psm_training.stages import Pictures
from smoothgate_lab.training_loop import seeded


def scene_pictures(seed: int, *, augment: bool = True) -> Pictures:
    """Scenes of training digits: three in four are coloured, the rest are plain grey pictures.

    Args:
        seed: seed of digits and layouts.
        augment: whether to vary the handwriting, as in the model's own training. Off for a held-out split.
    """
    digits = load_digits("train")

    def pictures(batch: int, n: int) -> Tensor:
        gen = seeded(seed, batch)
        coloured = scenes.sample_layouts(n - n // 4, gen)
        layouts = scenes.join(coloured, scenes.sample_layouts(n // 4, gen, grey=True))
        bitmaps = digits.bitmaps[torch.randint(len(digits.labels), (n,), generator=gen)]
        images, _ = scenes.draw(scenes.augment_strokes(bitmaps, gen) if augment else bitmaps, layouts)
        return images

    return pictures


def twin_pictures(seed: int, *, augment: bool = True) -> Pictures:
    """Coloured scenes as in `scene_pictures`, each followed by its twin: the same scene with another digit.

    Fine-tuning attacks each picture towards its neighbour.
    """
    digits = load_digits("train")

    def pictures(batch: int, n: int) -> Tensor:
        gen = seeded(seed, batch)
        chosen = torch.randint(len(digits.labels), (-(-n // 2),), generator=gen)
        both = torch.stack([chosen, scenes.twin_indices(digits, chosen, gen)], 1).flatten()
        layouts = scenes.each_twice(scenes.sample_layouts(len(chosen), gen))
        bitmaps = digits.bitmaps[both]
        images, _ = scenes.draw(scenes.augment_strokes(bitmaps, gen) if augment else bitmaps, layouts)
        return images[:n]

    return pictures


def labelled_drawings(
    digits: Digits, chosen: Tensor, layouts: Layout, gen: torch.Generator
) -> tuple[Tensor, list[Facts]]:
    """Draw the chosen digits with varied handwriting: images (N, 3, 48, 48), and the facts about each."""
    bitmaps = scenes.augment_strokes(digits.bitmaps[chosen], gen)
    images, _ = scenes.draw(bitmaps, layouts)
    return images, facts_of(digits.labels[chosen], layouts)


def calibrate_scenes(adapter: VisionAdapter, seed: int, n: int = 2000) -> Calibration:
    """Calibrate the demo model on pictures of n training scenes and their twins."""
    first, twins = labelled_scenes("train", n, seed)

    def features(pictures: list[Scene]) -> Iterator[Tensor]:
        return clean_tokens(adapter, (DecodedImage(np.asarray(s.picture), "PNG", "") for s in pictures))

    return calibrate(features(first), features(twins), adapter.digest)
