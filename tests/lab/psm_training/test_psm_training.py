"""Training on a small budget, on a tiny real checkpoint and real files."""

import hashlib
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from smoothgate.cli import common
from smoothgate.cli.main import app
from smoothgate.errors import SmoothgateError
from smoothgate.psm.calibration import Calibration, calibrate
from smoothgate.psm.checkpoint import PSM, Identity
from smoothgate.psm.picture_files import list_pictures
from smoothgate.psm.purifier import LightUNet, LightUNetConfig
from smoothgate.sampling.chance import FEWEST
from smoothgate.vision import VisionAdapter, load
from smoothgate_lab.cli import psm_training_commands
from smoothgate_lab.psm_training.folder_pictures import FolderPictures, split_pictures
from smoothgate_lab.psm_training.stages import Recipe, Trainer
from smoothgate_lab.training_loop import seeded
from tests import checkpoints

SMALL = LightUNetConfig(width=16, core_width=24, heads=2, noise_width=16)
RECIPE = Recipe(
    batch=8,
    denoise_steps=12,
    purifier_steps=12,
    mapper_steps=12,
    joint_steps=6,
    served_steps=6,
    held_out_every=5,
)
SMOOTHGATE = [sys.executable, "-c", "from smoothgate.cli.main import app; app()"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.build(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def adapter(checkpoint: Path) -> VisionAdapter:
    return load(str(checkpoint), device="cpu", dtype=torch.float32)


def _pictures(seed: int, n: int, shape: tuple[int, int, int] | None) -> Tensor:
    assert shape is not None
    gen = seeded(seed, 0)
    coarse = torch.rand((n, 3, 4, 4), generator=gen)
    return torch.nn.functional.interpolate(coarse, shape[1:], mode="bilinear")


@pytest.fixture(scope="module")
def calibration(adapter: VisionAdapter) -> Calibration:
    with torch.no_grad():
        tokens = adapter.tokens(_pictures(1, 64, adapter.canvas_shape))
    return calibrate([tokens], None, adapter.digest)


def _trainer(
    adapter: VisionAdapter, calibration: Calibration, folder: Path, recipe: Recipe = RECIPE
) -> Trainer:
    def pictures(batch: int, n: int) -> Tensor:
        return _pictures(100 + batch, n, adapter.canvas_shape)

    return Trainer(adapter, calibration, pictures, pictures, recipe, folder)


def _purifier() -> LightUNet:
    torch.manual_seed(0)
    return LightUNet(SMALL)


def test_every_stage_lowers_its_loss(
    adapter: VisionAdapter, calibration: Calibration, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, denoise_steps=100)
    psm = _trainer(adapter, calibration, tmp_path, recipe).run(_purifier())
    assert psm.model_digest == adapter.digest
    assert psm.training_facts["recipe"]["denoise_steps"] == 100
    for stage in ("denoise", "purifier", "mapper", "joint", "served"):
        rows = (tmp_path / f"{stage}.csv").read_text().splitlines()
        assert rows[0].startswith("0,loss="), rows
    losses = [
        float(row.split("loss=")[1].split(",")[0])
        for row in (tmp_path / "denoise.csv").read_text().splitlines()
        if "loss=" in row
    ]
    assert losses[-1] < 0.8 * losses[0]


def test_a_trained_psm_is_tuned(adapter: VisionAdapter, calibration: Calibration, tmp_path: Path) -> None:
    psm = _trainer(adapter, calibration, tmp_path / "first").run(_purifier())
    start = psm.digest
    recipe = replace(RECIPE, adversarial_steps=6)
    tuned = _trainer(adapter, calibration, tmp_path / "second", recipe).train_adversarially(psm)
    assert tuned.digest != start
    assert tuned.training_facts["tuned_from"] == start
    assert (tmp_path / "second/adversarial.csv").read_text().startswith("0,loss=")
    with pytest.raises(SmoothgateError, match="no weights"):
        _trainer(adapter, calibration, tmp_path / "third", recipe).train_adversarially(
            PSM(Identity(), Identity())
        )


def test_either_may_be_left_out(adapter: VisionAdapter, calibration: Calibration, tmp_path: Path) -> None:
    only_mapper = _trainer(adapter, calibration, tmp_path / "a").run(Identity())
    assert isinstance(only_mapper.purifier, Identity)
    assert not isinstance(only_mapper.mapper, Identity)
    only_purifier = _trainer(adapter, calibration, tmp_path / "b").run(_purifier(), mapper=False)
    assert isinstance(only_purifier.mapper, Identity)


def test_the_held_out_split_ends_a_stage_and_keeps_the_best(
    adapter: VisionAdapter, calibration: Calibration, tmp_path: Path
) -> None:
    # A rate that ruins the weights: the first measurement stays the best.
    recipe = replace(
        RECIPE,
        denoise_steps=0,
        purifier_steps=200,
        mapper_steps=0,
        joint_steps=0,
        served_steps=0,
        muon_lr=2.0,
        adam_lr=1.0,
        patience=2,
    )
    _trainer(adapter, calibration, tmp_path, recipe).run(_purifier(), mapper=False)
    saved = torch.load(tmp_path / "purifier.ckpt", weights_only=True)
    assert saved["stopped"]
    assert saved["step"] < 200
    measured = [
        float(row.split("held_out=")[1])
        for row in (tmp_path / "purifier.csv").read_text().splitlines()
        if "held_out=" in row
    ]
    assert saved["best_measured"] == pytest.approx(min(measured), abs=1e-4)


def test_another_recipe_does_not_go_on_in_the_same_folder(
    adapter: VisionAdapter, calibration: Calibration, tmp_path: Path
) -> None:
    _trainer(adapter, calibration, tmp_path).run(Identity())
    with pytest.raises(SmoothgateError) as caught:
        _trainer(adapter, calibration, tmp_path, replace(RECIPE, seed=2)).run(Identity())
    assert caught.value.code == "other_recipe"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    for i, canvas in enumerate(_pictures(3, 40, (3, 48, 40))):
        pixels = (canvas * 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / "pictures" / f"{i:02}.png")
    return tmp_path / "pictures"


def test_pictures_of_a_folder_depend_on_the_batch_alone(adapter: VisionAdapter, folder: Path) -> None:
    paths = list_pictures(folder)
    first, second = (FolderPictures(adapter, paths, seed=1) for _ in range(2))
    expected = [first(batch, 6) for batch in (0, 1, 2, 5)]
    for batch, canvases in zip((5, 2, 1, 0), reversed(expected), strict=True):
        assert torch.equal(second(batch, 6), canvases)
    assert not torch.equal(expected[0], expected[1])


def test_unreadable_pictures_are_replaced_and_named(adapter: VisionAdapter, folder: Path) -> None:
    for name in ("03.png", "04.png"):
        (folder / name).write_bytes(b"not a picture")
    pictures = FolderPictures(adapter, list_pictures(folder), seed=1)
    assert adapter.canvas_shape is not None
    for batch in range(20):
        assert pictures(batch, 8).shape == (8, *adapter.canvas_shape)
    assert {path.name for path in pictures.unreadable} == {"03.png", "04.png"}
    nothing = FolderPictures(adapter, [folder / "03.png"], seed=1)
    with pytest.raises(SmoothgateError, match="can be read"):
        nothing(0, 1)


def test_the_split_shares_no_picture(folder: Path) -> None:
    training, held_out = split_pictures(list_pictures(folder))
    assert len(held_out) == 4
    assert not set(training) & set(held_out)
    with pytest.raises(SmoothgateError, match="at least 20"):
        split_pictures(training[:19])


def _arguments(checkpoint: Path, folder: Path, output: Path) -> list[str]:
    steps = ["--denoise-steps", "8", "--purifier-steps", "12", "--mapper-steps", "6", "--joint-steps", "4"]
    steps += ["--served-steps", "4"]
    return [
        *["psm", "train", "--model", str(checkpoint), "--images", str(folder), "--output", str(output)],
        *["--sigma", "0.25", "0.5", "--batch", "8", "--save-every", "5", *steps],
    ]


def _digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


@pytest.mark.long
def test_a_killed_run_is_resumed_to_the_same_weights_and_the_model_stays_as_it_was(
    checkpoint: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command itself, killed with SIGKILL in its second stage."""
    monkeypatch.setattr(psm_training_commands, "CALIBRATED", FEWEST)
    monkeypatch.setattr(common, "_SCORED", 2)
    monkeypatch.setattr(common, "_COPIES", 2)
    (folder / "05.png").write_bytes(b"not a picture")
    before = _digests(checkpoint)
    torch.set_num_threads(1)
    whole = CliRunner().invoke(app, _arguments(checkpoint, folder, tmp_path / "whole"))
    assert whole.exit_code == 0, whole.output
    assert "05.png" in whole.stderr
    assert "1 pictures skipped" in whole.stderr

    reached = tmp_path / "broken/work/purifier.ckpt"
    with subprocess.Popen(
        [*SMOOTHGATE, *_arguments(checkpoint, folder, tmp_path / "broken")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as broken:
        try:
            while not reached.exists():
                assert broken.poll() is None
                time.sleep(0.005)
        finally:
            broken.kill()
    assert not (tmp_path / "broken/psm.json").exists()
    resumed = CliRunner().invoke(app, _arguments(checkpoint, folder, tmp_path / "broken"))
    assert resumed.exit_code == 0, resumed.output
    assert PSM.load(tmp_path / "broken").digest == PSM.load(tmp_path / "whole").digest
    assert _digests(checkpoint) == before
    figures = Calibration.load(tmp_path / "whole").figures
    assert set(figures.scores) == {"0.25", "0.5"}
    assert figures.psm_digest == PSM.load(tmp_path / "whole").digest


def test_the_patch_of_the_light_purifier_can_be_named() -> None:
    purifier = psm_training_commands._purifier("light", 2)
    assert isinstance(purifier, LightUNet)
    assert purifier.config.patch == 2
