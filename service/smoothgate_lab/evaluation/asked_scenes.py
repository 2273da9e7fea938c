"""Held-out pictures of a bundled model, and questions about them whose right answers are known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from smoothgate.bundled import DEMO
from smoothgate.errors import SmoothgateError
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.vision import load
from smoothgate_lab.chat_models.chats import Question
from smoothgate_lab.demo.conversation import ONE_PICTURE
from smoothgate_lab.demo.digit_scenes import DigitScenes
from smoothgate_lab.photos.photo_conversation import one_photo
from smoothgate_lab.photos.photo_sets import CLASSES
from smoothgate_lab.photos.photographs import Photographs

#: Scenes of the demo model. They do not depend on how many of them are sampled.
SCENES = 500

_PER_CLASS = 50


@dataclass(frozen=True, slots=True, eq=False)
class AskedScenes:
    """Pictures and questions.

    Attributes:
        model: folder of the model.
        encoder: the model's, with its PSM.
        canvases: (N, 3, H, W) in [0, 1].
        questions: each is asked in its first phrasing. Attacks are on the first.
        right: the right answers to each picture, by the question's name.
        pictures: digest of the pictures, where no seed determines them.
    """

    model: Path
    encoder: UnitEncoder
    canvases: Tensor
    questions: tuple[Question, ...]
    right: tuple[dict[str, str], ...]
    pictures: str = ""


def demo_scenes(seed: int) -> AskedScenes:
    """Scenes of held-out digits, of a seed, for the demo model with its PSM."""
    model = DEMO.model
    encoder = _encoder(model, DEMO.psm)
    scenes = DigitScenes(encoder.adapter, SCENES, 0, seed)
    questions = tuple(q for q in ONE_PICTURE if q.name in ("digit", "ink", "parity", "describe"))
    right = tuple({q.name: q.answer(facts) for q in questions} for facts in scenes.facts)
    return AskedScenes(model, encoder, scenes.canvases, questions, right)


def photo_scenes(test: Photographs, model: Path, psm: Path, first: int = 0) -> AskedScenes:
    """50 test pictures of each class, or all if there are fewer, for the photographs model.

    The classes take turns, so that the first pictures are of all of them.

    Args:
        test: all test pictures.
        model: folder of the model.
        psm: folder of PSM and calibration.
        first: number of the first of them among those of its class.

    Raises:
        SmoothgateError: code `too_few_images`: a class has none of that number.
    """
    photographs = in_turns(test, first)
    questions = one_photo(test.photo_set)
    right = tuple({q.name: q.answer(noun) for q in questions} for noun in photographs.nouns)
    encoder = _encoder(model, psm)
    return AskedScenes(model, encoder, photographs.canvases, questions, right, photographs.digest)


def in_turns(test: Photographs, first: int = 0) -> Photographs:
    """50 of each class, from a number on; raises as `photo_scenes`. The classes take turns."""
    photographs = test.of_each_class(first, first + _PER_CLASS)
    counts = [int((photographs.labels == c).sum()) for c in range(CLASSES)]
    if not all(counts):
        raise SmoothgateError(f"A class has no test picture of number {first}.", code="too_few_images")
    # The place of each among those of its class.
    turns = torch.cat([torch.arange(count) for count in counts])
    return photographs.take(turns.argsort(stable=True))


def _encoder(model: Path, psm: Path) -> UnitEncoder:
    return UnitEncoder.load(load(str(model), device="cpu", dtype=torch.float32), psm)
