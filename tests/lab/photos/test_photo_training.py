import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from typer.testing import CliRunner

from smoothgate.errors import SmoothgateError
from smoothgate.vision import DecodedImage, load
from smoothgate_lab.chat_models.answerer import Answerer
from smoothgate_lab.chat_models.clip_encoder import centred_unit
from smoothgate_lab.cli import photos_commands
from smoothgate_lab.photos import photo_tower, photo_training
from smoothgate_lab.photos.photo_evaluation import photo_accuracy
from smoothgate_lab.photos.photo_sets import CIFAR10, FASHION_MNIST, PhotoSet
from smoothgate_lab.photos.photo_teacher import PhotoTeacher
from smoothgate_lab.photos.photo_tower import PhotoTowerTrainer, photo_encoder, tower_loss
from smoothgate_lab.photos.photo_training import RECIPES, PhotoTraining, accuracy, digest
from smoothgate_lab.photos.photographs import Photographs
from smoothgate_lab.training_loop import seeded
from tests.lab.photos.made_photographs import made_pixels, write_archive
from tests.lab.photos.tiny_recipe import RECIPE

STAGES = ("teacher", "tower", "language")


@pytest.fixture(scope="module")
def photographs() -> Photographs:
    pixels, labels = made_pixels(20)
    planes = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
    return Photographs(planes, torch.from_numpy(labels).long(), CIFAR10)


@pytest.fixture(scope="module")
def work(photographs: Photographs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that went through without a stop; the model is in `model`."""
    folder = tmp_path_factory.mktemp("photos")
    PhotoTraining(photographs, folder, 1, recipe=RECIPE).run(folder)
    return folder


@pytest.fixture(scope="module")
def teacher(work: Path, photographs: Photographs) -> PhotoTeacher:
    return PhotoTraining(photographs, work, 1, recipe=RECIPE).teacher()


def _stopping(loss: Callable[..., Any], batches: int) -> Callable[..., Any]:
    left = iter(range(batches))

    def stopping(*arguments: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return loss(*arguments)

    return stopping


def test_a_run_that_is_stopped_in_every_stage_and_resumed_gives_the_same_files(
    work: Path, photographs: Photographs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stage, batches in zip(STAGES, (13, 4, 2), strict=True):
        with monkeypatch.context() as patch:
            loss = f"{stage}_loss"
            patch.setattr(photo_training, loss, _stopping(getattr(photo_training, loss), batches))
            with pytest.raises(KeyboardInterrupt):
                PhotoTraining(photographs, tmp_path, 1, recipe=RECIPE).run(tmp_path)
    PhotoTraining(photographs, tmp_path, 1, recipe=RECIPE).run(tmp_path)
    for file in (work / "model").iterdir():
        assert (tmp_path / "model" / file.name).read_bytes() == file.read_bytes(), file.name


def test_the_teacher_learns_and_is_measured_on_pictures_that_it_does_not_see(
    work: Path, teacher: PhotoTeacher, photographs: Photographs
) -> None:
    run = PhotoTraining(photographs, work, 1, recipe=RECIPE)
    seen = {picture.numpy().tobytes() for picture in run.photographs.pixels}
    assert not any(picture.numpy().tobytes() in seen for picture in run.held_out.pixels)
    assert accuracy(teacher, photographs) > 0.3, "chance is 0.1"
    assert (work / "teacher/teacher.csv").read_text().count("held_out=") == 3


@pytest.mark.parametrize("change", ["seed", "precision", "recipe", "pictures"])
def test_a_folder_of_another_run_is_refused(change: str, photographs: Photographs, work: Path) -> None:
    other = PhotoTraining(
        photographs.of_each_class(0, 19) if change == "pictures" else photographs,
        work,
        2 if change == "seed" else 1,
        bfloat16=change == "precision",
        recipe=replace(RECIPE, teacher_width=5) if change == "recipe" else RECIPE,
    )
    with pytest.raises(SmoothgateError, match="another model, start or recipe") as caught:
        other.teacher()
    assert caught.value.code == "other_recipe"


def test_a_tower_of_another_teacher_is_refused(photographs: Photographs, work: Path) -> None:
    with pytest.raises(SmoothgateError, match="another model, start or recipe"):
        PhotoTraining(photographs, work, 1, recipe=RECIPE).tower(PhotoTeacher(4))


def test_a_classifier_is_measured_without_changing_it(photographs: Photographs) -> None:
    classifier: nn.Module = PhotoTeacher(4)
    before = digest(classifier)
    accuracy(classifier, photographs)
    assert classifier.training
    assert digest(classifier) == before


def test_the_tower_learns_what_the_teacher_says(teacher: PhotoTeacher, photographs: Photographs) -> None:
    torch.manual_seed(0)
    model = PhotoTowerTrainer(photo_encoder(32, 1, 32), teacher.map_width)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    totals: list[float] = []
    for step in range(40):
        total, figures = tower_loss(model, teacher, photographs.batch(step, 32, 1), seeded(1, step))
        optimiser.zero_grad()
        torch.autograd.backward(total)
        optimiser.step()
        totals.append(float(total.detach()))
    assert set(figures) == {"what", "tokens", "fine", "coarse", "shared", "agreement"}
    assert sum(totals[-5:]) < 0.8 * sum(totals[:5])
    assert all(weight.grad is not None for weight in model.encoder.linear_2.parameters())


def test_photographs_are_turned_and_mixed_only_where_the_tower_sees_some_patches(
    teacher: PhotoTeacher, photographs: Photographs, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {name: Mock(side_effect=lambda x, gen: x) for name in ("turned", "mixed")}
    for name, change in changes.items():
        monkeypatch.setattr(photo_tower, name, change)
    model = PhotoTowerTrainer(photo_encoder(32, 1, 32), teacher.map_width)
    tower_loss(model, teacher, photographs.batch(0, 8, 1), seeded(1, 0))
    assert not any(change.called for change in changes.values())
    tower_loss(model, teacher, photographs.batch(0, 8, 1), seeded(1, 0), 32)
    assert all(change.called for change in changes.values())


def test_a_tower_that_sees_all_patches_in_any_order_gives_the_same_tokens() -> None:
    torch.manual_seed(0)
    encoder = photo_encoder(32, 2, 32)
    x = torch.rand(3, 3, 32, 32)
    order = torch.stack([torch.randperm(64) for _ in x])
    with torch.no_grad():
        tokens, reordered = encoder(x), encoder(x, order)
        few = encoder(x, order[:, :20])
    torch.testing.assert_close(reordered, tokens.gather(1, order[..., None].expand_as(tokens)))
    assert few.shape == (3, 20, 32)


def test_a_tower_that_sees_some_patches_does_not_know_the_others() -> None:
    torch.manual_seed(0)
    encoder = photo_encoder(32, 2, 32)
    x = torch.rand(1, 3, 32, 32)
    other = x.clone()
    other[..., 4:, :] = torch.rand(1, 3, 28, 32)
    first_row = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.equal(encoder(x, first_row), encoder(other, first_row))
        assert not torch.equal(encoder(x)[:, :8], encoder(other)[:, :8])


def test_the_centre_follows_the_mean_at_the_places_that_were_seen() -> None:
    mu = torch.zeros(4, 2)
    tokens = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]])
    unit = centred_unit(tokens, mu, follow=True, kept=torch.tensor([[0, 1], [0, 3]]))
    assert torch.allclose(mu, 0.02 * torch.tensor([[3.0, 4.0], [3.0, 4.0], [0.0, 0.0], [7.0, 8.0]]))
    assert torch.allclose(unit.flatten(1).norm(dim=1), torch.ones(2))


def test_the_teacher_sees_whitened_patches(photographs: Photographs) -> None:
    teacher = PhotoTeacher(4)
    teacher.look_at(photographs)
    with torch.no_grad():
        seen = teacher.whiten((photographs.canvases - 0.5) / 0.25)[:, :12]
    values = seen.transpose(0, 1).flatten(1)
    second_moments = values @ values.T / values.shape[1]
    assert second_moments.diagonal().max() < 1.2
    off = second_moments - second_moments.diagonal().diag()
    assert off.abs().max() < 0.1


def test_the_encoder_of_the_files_is_the_one_that_was_trained(work: Path, photographs: Photographs) -> None:
    run = PhotoTraining(photographs, work, 1, recipe=RECIPE)
    encoder = run.tower(run.teacher())
    adapter = load(str(work / "model"), device="cpu", dtype=torch.float32)
    picture = photographs.pixels[3]
    canvas = adapter.canvas(DecodedImage(picture.permute(1, 2, 0).numpy(), "PNG", "")).x
    assert torch.equal(canvas, picture / 255)
    with torch.no_grad():
        ours: Tensor = encoder(canvas[None])[0]
        served = adapter.tokens(canvas[None])[0]
    assert served.shape == (64, 32)
    torch.testing.assert_close(served, ours, atol=0.01, rtol=0.01)  # float16


def test_the_files_are_in_half_precision_and_take_the_middle_of_a_picture(work: Path) -> None:
    weights = load_file(work / "model/model.safetensors")
    assert {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()} == {torch.float16}
    processor = json.loads((work / "model/processor_config.json").read_text())["image_processor"]
    assert processor["do_center_crop"]
    pixels = np.zeros((32, 96, 3), np.uint8)
    pixels[:, 32:64] = 255
    answerer = Answerer(work / "model")
    middle, wide = (Image.fromarray(each) for each in (pixels[:, 32:64], pixels))
    tokens = answerer.tokens([middle, wide])
    assert torch.equal(tokens[0], tokens[1])


@pytest.mark.parametrize(
    ("photo_set", "least", "most"),
    [(CIFAR10, 5e6, 11e6), (FASHION_MNIST, 1e6, 2e6)],
    ids=["cifar", "fashion"],
)
def test_each_set_has_a_recipe_whose_model_leaves_room_for_a_psm(
    photo_set: PhotoSet, least: float, most: float
) -> None:
    recipe = RECIPES[photo_set.name]
    encoder = photo_encoder(recipe.hidden, recipe.layers, recipe.width)
    size = sum(weight.numel() for weight in encoder.parameters())
    assert least < size < most
    assert 2 * size < 16 * 2**20


def test_every_kind_of_question_is_asked_about_every_picture(work: Path, photographs: Photographs) -> None:
    few = photographs.of_each_class(0, 1)
    figures = photo_accuracy(Answerer(work / "model"), few, 3)
    assert figures["asked"] == dict.fromkeys(
        ("what", "kind", "describe", "yes or no", "both", "which"), len(few)
    )
    assert set(figures["errors"]) == {name for name, share in figures["accuracy"].items() if share < 1}


def test_the_command_prints_how_often_the_model_is_right(work: Path, tmp_path: Path) -> None:
    write_archive(tmp_path, 2)
    options = ["--data", str(tmp_path), "--model", str(work / "model"), "--per-class", "1"]
    result = CliRunner().invoke(photos_commands.app, ["evaluate", *options])
    assert result.exit_code == 0, result.output
    assert "10 test pictures" in " ".join(result.output.split())


def test_a_folder_without_photographs_ends_the_command_with_a_message(tmp_path: Path) -> None:
    result = CliRunner().invoke(photos_commands.app, ["train", "--data", str(tmp_path)])
    assert result.exit_code == 1
    assert "cifar-10-binary.tar.gz" in result.output
