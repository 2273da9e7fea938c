"""`smoothgate psm calibrate` on a tiny checkpoint and a folder of pictures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from smoothgate.cli.main import app
from smoothgate.psm.calibration import Calibration
from tests import checkpoints


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Twelve pictures, one of them damaged, and their twins, of which the last is missing."""
    generator = np.random.default_rng(0)
    for name, count in (("pictures", 12), ("twins", 11)):
        (tmp_path / name).mkdir()
        for number in range(count):
            coarse = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
            coarse.resize((40, 48), Image.Resampling.BICUBIC).save(tmp_path / name / f"{number:02}.png")
    return tmp_path / "pictures", tmp_path / "twins"


def _calibrate(checkpoint: Path, output: Path, *words: str) -> str:
    command = ["psm", "calibrate", "--model", str(checkpoint), "--output", str(output), *words]
    result = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output


def test_a_model_is_calibrated_and_scored_on_the_readable_pictures(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    pictures, _ = folders
    (pictures / "03.png").write_bytes(b"not a picture")
    checkpoint = checkpoints.build(tmp_path / "tiny")
    said = _calibrate(checkpoint, tmp_path / "psm", "--images", str(pictures), "--sigma", "0.1", "0.2")
    figures = Calibration.load(tmp_path / "psm").figures
    assert figures.images == 11
    assert set(figures.scores) == set(figures.canary_scores) == {"0.1", "0.2"}
    assert figures.canary_scores["0.1"] > 0.5
    assert figures.twin_mean is None
    assert "03.png" in said
    assert "1 pictures skipped" in said
    assert figures.chance == {}
    assert "11 pictures are too few" in said


def test_twins_give_their_cosine(folders: tuple[Path, Path], tmp_path: Path) -> None:
    pictures, twins = folders
    checkpoint = checkpoints.build(tmp_path / "tiny")
    words = ["--images", str(pictures), "--twins", str(twins), "--sigma", "0.1"]
    _calibrate(checkpoint, tmp_path / "psm", *words)
    figures = Calibration.load(tmp_path / "psm").figures
    assert figures.images == 11
    assert figures.twin_mean is not None


def test_a_folder_of_pictures_is_asked_for() -> None:
    result = CliRunner().invoke(app, ["psm", "calibrate"])
    assert result.exit_code == 2
    assert "--images" in result.output
