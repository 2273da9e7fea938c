"""The recipe of the photographs model: teacher, tower, language model, files."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from smoothgate_lab.photos.photo_teacher import WIDTH, PhotoTeacher, teacher_loss
from smoothgate_lab.photos.photographs import Photographs
from smoothgate_lab.training_loop import HeldOut, Schedule, claim, seeded, train

TEACHER = Schedule(steps=4000, muon_lr=0.04, adam_lr=2e-3, decay=0.8)

#: Of each class, the training pictures that are held out: they are measured on during training.
HELD_OUT = 100


@dataclass(frozen=True, slots=True)
class Recipe:
    """Sizes and lengths of the stages.

    Attributes:
        teacher_width: number of channels of the teacher's first layer.
        teacher: steps and learning rates of the teacher.
        batch: number of photographs in a batch.
        measure_every: number of steps between two measurements on held-out pictures.
        save_every: number of steps between two checkpoints.
    """

    teacher_width: int = WIDTH
    teacher: Schedule = TEACHER
    batch: int = 256
    measure_every: int = 200
    save_every: int = 50


class PhotoTraining:
    """One run: its stages, and what they share.

    Each stage has a folder below `folder` for its checkpoint and log. A stage that finds its own files there
    resumes where it stopped, and gives the same weights as one that was never interrupted.

    Args:
        photographs: the training pictures.
        folder: for checkpoints and logs.
        seed: seed of data and initial weights. Every stage derives its own seeds from it.
        bfloat16: whether forward and backward passes compute in bfloat16. It is twice as fast on CPUs with
            AVX-512-BF16, and slow on CPUs without it.
        recipe: sizes and lengths.
    """

    def __init__(
        self,
        photographs: Photographs,
        folder: Path,
        seed: int,
        *,
        bfloat16: bool = False,
        recipe: Recipe | None = None,
    ) -> None:
        self.recipe = recipe or Recipe()
        held_out = min(HELD_OUT, len(photographs) // 100)
        self.held_out = photographs.of_each_class(0, held_out)
        self.photographs = photographs.of_each_class(held_out, len(photographs))
        self._folder = folder
        self._seed = seed
        self._precision = torch.autocast("cpu", torch.bfloat16, enabled=bfloat16)
        self._facts = {"photographs": photographs.digest, "seed": seed, "bfloat16": bfloat16}

    def teacher(self) -> PhotoTeacher:
        """Stage 1: train the convolutional network. Returns it frozen.

        Raises:
            SmoothgateError: code `other_recipe`: the folder holds a teacher of another run.
        """
        recipe, folder = self.recipe, self._folder / "teacher"
        self._claim(folder, {"width": recipe.teacher_width, "schedule": asdict(recipe.teacher)})
        torch.manual_seed(self._seed)
        teacher = PhotoTeacher(recipe.teacher_width)

        def loss(step: int) -> tuple[Tensor, dict[str, float]]:
            batch = self.photographs.batch(step, recipe.batch, self._seed)
            with self._precision:
                return teacher_loss(teacher, batch, seeded(self._seed + 1, step))

        train(
            "teacher",
            teacher,
            loss,
            recipe.teacher,
            folder,
            ema=0.99,
            muon=r"net.*\.weight$",
            held_out=self._measured(teacher, recipe.teacher),
            samples=recipe.batch,
            save_every=recipe.save_every,
        )
        return teacher.eval().requires_grad_(False)

    def _claim(self, folder: Path, facts: dict[str, Any]) -> None:
        claim(folder, {**self._facts, "batch": self.recipe.batch, **facts})

    def _measured(self, classifier: nn.Module, schedule: Schedule) -> HeldOut:
        def measure() -> float:
            with self._precision:
                return 1 - accuracy(classifier, self.held_out)

        # The patience is never at an end: the best weights are kept, and the schedule is run to its end.
        return HeldOut(measure, every=self.recipe.measure_every, patience=schedule.steps)


@torch.no_grad()
def accuracy(classifier: nn.Module, photographs: Photographs, batch: int = 250) -> float:
    """Share of photographs that a classifier, canvases (N, 3, 32, 32) -> logits (N, 10), gets right."""
    was_training = classifier.training
    classifier.eval()
    chunks = zip(photographs.pixels.split(batch), photographs.labels.split(batch), strict=True)
    right = sum(int((classifier(p / 255).argmax(1) == labels).sum()) for p, labels in chunks)
    classifier.train(was_training)
    return right / len(photographs)
