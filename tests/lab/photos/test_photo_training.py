from pathlib import Path
from typing import Any

import pytest
import torch

from smoothgate.errors import SmoothgateError
from smoothgate_lab.photos import photo_training
from smoothgate_lab.photos.photo_teacher import PhotoTeacher
from smoothgate_lab.photos.photo_training import PhotoTraining, Recipe, accuracy
from smoothgate_lab.photos.photographs import Photographs
from smoothgate_lab.training_loop import Schedule
from tests.lab.photos.made_photographs import made_pixels

SHORT = Schedule(steps=24, muon_lr=0.04, adam_lr=1e-2, warmup=2)
RECIPE = Recipe(teacher_width=4, teacher=SHORT, batch=32, measure_every=8, save_every=5)


@pytest.fixture(scope="module")
def photographs() -> Photographs:
    pixels, labels = made_pixels(20)
    return Photographs(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels).long())


def _stopped_after(batches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real, left = photo_training.teacher_loss, iter(range(batches))

    def loss(*arguments: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(photo_training, "teacher_loss", loss)


def test_a_teacher_that_was_stopped_and_resumed_is_the_same(
    photographs: Photographs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = PhotoTraining(photographs, tmp_path / "whole", 1, recipe=RECIPE).teacher()
    with monkeypatch.context() as patch:
        _stopped_after(13, patch)
        with pytest.raises(KeyboardInterrupt):
            PhotoTraining(photographs, tmp_path / "stopped", 1, recipe=RECIPE).teacher()
    resumed = PhotoTraining(photographs, tmp_path / "stopped", 1, recipe=RECIPE).teacher()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_the_teacher_learns_and_is_measured_on_pictures_that_it_does_not_see(
    photographs: Photographs, tmp_path: Path
) -> None:
    run = PhotoTraining(photographs, tmp_path, 1, recipe=RECIPE)
    seen = {picture.numpy().tobytes() for picture in run.photographs.pixels}
    assert not any(picture.numpy().tobytes() in seen for picture in run.held_out.pixels)
    teacher = run.teacher()
    assert accuracy(teacher, photographs) > 0.5
    assert (tmp_path / "teacher/teacher.csv").read_text().count("held_out=") == 3


@pytest.mark.parametrize("change", ["seed", "precision", "recipe", "pictures"])
def test_a_folder_of_another_run_is_refused(change: str, photographs: Photographs, tmp_path: Path) -> None:
    PhotoTraining(photographs, tmp_path, 1, recipe=RECIPE).teacher()
    other = PhotoTraining(
        photographs.of_each_class(0, 19) if change == "pictures" else photographs,
        tmp_path,
        2 if change == "seed" else 1,
        bfloat16=change == "precision",
        recipe=Recipe(teacher_width=5, teacher=SHORT, batch=32) if change == "recipe" else RECIPE,
    )
    with pytest.raises(SmoothgateError, match="another model, start or recipe") as caught:
        other.teacher()
    assert caught.value.code == "other_recipe"


def test_a_classifier_is_measured_without_changing_it(photographs: Photographs) -> None:
    teacher = PhotoTeacher(4)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    accuracy(teacher, photographs)
    assert teacher.training
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
