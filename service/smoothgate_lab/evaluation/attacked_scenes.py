"""Held-out pictures that are attacked, and what an attacker wants them to be taken for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from smoothgate.errors import MalformedRequest, SmoothgateError
from smoothgate.vision import VisionAdapter
from smoothgate_lab.chat_models.chats import Question
from smoothgate_lab.demo.conversation import ONE_PICTURE
from smoothgate_lab.demo.digit_scenes import DigitScenes
from smoothgate_lab.evaluation.asked_scenes import in_turns
from smoothgate_lab.photos.photo_conversation import one_photo
from smoothgate_lab.photos.photographs import Photographs


@dataclass(frozen=True, slots=True, eq=False)
class AttackedScenes:
    """Pictures, each with a twin of another class, whose answer a targeted attack wants.

    Attributes:
        questions: about one picture. The first is attacked unless a plan names another.
        canvases: (N, 3, H, W) in [0, 1].
        facts: about each picture, as questions take them.
        twins: (N, 3, H, W) in [0, 1].
        twin_facts: about each twin.
        classes: the answer to the first question for each class.
        labels: the class of each picture.
        pictures: digest of the pictures, where no seed determines them.
    """

    questions: tuple[Question, ...]
    canvases: Tensor
    facts: Sequence[Any]
    twins: Tensor
    twin_facts: Sequence[Any]
    classes: tuple[str, ...]
    labels: Sequence[int]
    pictures: str = ""

    def question(self, name: str | None) -> Question:
        """The question of a name, or the first one.

        Raises:
            MalformedRequest: none has this name.
        """
        names = [question.name for question in self.questions]
        if name is None:
            return self.questions[0]
        if name not in names:
            raise MalformedRequest(
                f"There is no question named {name}, but {', '.join(names)}.", param="question"
            )
        return self.questions[names.index(name)]


def attacked_digits(adapter: VisionAdapter, n: int, seed: int) -> AttackedScenes:
    """Scenes of held-out digits, of a seed, and the same scenes with another digit.

    Args:
        adapter: the demo model's.
        n: number of scenes.
        seed: of the scenes.
    """
    scenes = DigitScenes(adapter, n, n, seed)
    digit = ONE_PICTURE[0]
    return AttackedScenes(
        questions=ONE_PICTURE,
        canvases=scenes.canvases,
        facts=scenes.facts,
        twins=scenes.twins,
        twin_facts=scenes.twin_facts,
        classes=tuple(digit.answer(replace(scenes.facts[0], digit=each)) for each in range(10)),
        labels=[facts.digit for facts in scenes.facts],
    )


def attacked_photographs(test: Photographs, n: int) -> AttackedScenes:
    """The first test pictures of each class in turn. The twin of each is the next one, of another class.

    Args:
        test: all test pictures.
        n: number of pictures.

    Raises:
        SmoothgateError: code `too_few_images`: there are fewer.
    """
    photographs = in_turns(test)
    if len(photographs) < n:
        raise SmoothgateError(
            f"{n} pictures are wanted, and there are {len(photographs)}.", code="too_few_images"
        )
    numbers, questions = torch.arange(n), one_photo(test.photo_set)
    pictures, twins = photographs.take(numbers), photographs.take((numbers + 1) % len(photographs))
    return AttackedScenes(
        questions=questions,
        canvases=pictures.canvases,
        facts=pictures.nouns,
        twins=twins.canvases,
        twin_facts=twins.nouns,
        classes=tuple(questions[0].answer(noun) for noun in test.photo_set.nouns),
        labels=pictures.labels.tolist(),
        pictures=pictures.digest,
    )
