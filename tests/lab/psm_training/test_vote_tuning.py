"""Fine-tuning for votes on a small budget, on a tiny real checkpoint."""

import hashlib
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
from smoothgate.psm.checkpoint import PSM
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.sampling.chance import FEWEST
from smoothgate.vision import VisionAdapter, load
from smoothgate_lab.cli import psm_training_commands
from smoothgate_lab.psm_training.attacks_through_noise import attack
from smoothgate_lab.psm_training.frozen_language_model import FrozenLanguageModel
from smoothgate_lab.psm_training.noise_pairs import noise_pairs
from smoothgate_lab.psm_training.stages import Recipe, Trainer
from smoothgate_lab.psm_training.vote_tuning import VoteRecipe, VoteTuning
from smoothgate_lab.training_loop import seeded
from tests import checkpoints, psms

RECIPE = Recipe(batch=8, muon_lr=0.1, adam_lr=0.02, held_out_every=100)
VOTES = VoteRecipe(steps=6, questions=("What digit is shown?", "Describe the image."))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.build(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def adapter(checkpoint: Path) -> VisionAdapter:
    return load(str(checkpoint), device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def language_model(checkpoint: Path, adapter: VisionAdapter) -> FrozenLanguageModel:
    return FrozenLanguageModel(str(checkpoint), adapter, answer_tokens=2)


def pictures(batch: int, n: int) -> Tensor:
    coarse = torch.rand((n, 3, 4, 4), generator=seeded(100, batch))
    size = (checkpoints.IMAGE_SIZE,) * 2
    return torch.nn.functional.interpolate(coarse, size, mode="bilinear")


@pytest.fixture(scope="module")
def calibration(adapter: VisionAdapter) -> Calibration:
    with torch.no_grad():
        return calibrate([adapter.tokens(pictures(0, 64))], None, adapter.digest)


class Killed(Exception):
    """Ends a run between two checkpoints."""


def tuned(
    adapter: VisionAdapter,
    calibration: Calibration,
    language_model: FrozenLanguageModel,
    folder: Path,
    votes: VoteRecipe = VOTES,
    killed_at: int | None = None,
) -> PSM:
    def training(batch: int, n: int) -> Tensor:
        if batch == killed_at:
            raise Killed
        return pictures(batch, n)

    trainer = Trainer(adapter, calibration, training, pictures, RECIPE, folder, save_every=2)
    return trainer.train_for_votes(psms.build(adapter.digest), VoteTuning(language_model, votes))


def answered_apart(encoder: UnitEncoder, tuning: VoteTuning) -> float:
    """The losses on answers of the first batches that training sees, with other noise."""
    total = 0.0
    for batch in range(3):
        x, gen = pictures(batch, 4), seeded(3, batch)
        with torch.no_grad():
            asked = tuning.ask(encoder, x, encoder.adapter.tokens(x), gen)
            total += float(asked.loss(encoder.units(*noise_pairs(x, torch.full((4,), 0.25), gen)))[0])
    return total


def test_single_samples_come_to_answer_as_the_picture_does(
    adapter: VisionAdapter,
    calibration: Calibration,
    language_model: FrozenLanguageModel,
    checkpoint: Path,
    tmp_path: Path,
) -> None:
    def files() -> dict[str, str]:
        return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in checkpoint.iterdir()}

    before, weights = files(), {k: v.clone() for k, v in language_model.model.state_dict().items()}
    tuning = VoteTuning(language_model, VOTES)
    start = psms.build(adapter.digest)
    votes = replace(VOTES, steps=40)
    psm = tuned(adapter, calibration, language_model, tmp_path, votes)
    apart = answered_apart(UnitEncoder(adapter, calibration, start), tuning)
    assert answered_apart(UnitEncoder(adapter, calibration, psm), tuning) < 0.9 * apart
    facts = psm.training_facts["tuned_for_votes"]
    assert (facts["from"], facts["questions"], facts["steps"]) == (start.digest, VOTES.questions, 40)
    assert psm.training_facts["seed"] == 0, "what came before is not forgotten"
    assert "distribution=" in (tmp_path / "votes.csv").read_text()
    assert files() == before
    assert all(torch.equal(weights[k], v) for k, v in language_model.model.state_dict().items())


@pytest.mark.parametrize("attacked", [False, True])
def test_a_run_that_was_killed_ends_with_the_same_weights(
    attacked: bool,
    adapter: VisionAdapter,
    calibration: Calibration,
    language_model: FrozenLanguageModel,
    tmp_path: Path,
) -> None:
    votes = replace(VOTES, lambda_agreement=1.0, attacked=attacked)
    parts = (adapter, calibration, language_model)
    whole = tuned(*parts, tmp_path / "whole", votes)
    with pytest.raises(Killed):
        tuned(*parts, tmp_path / "broken", votes, killed_at=3)
    assert tuned(*parts, tmp_path / "broken", votes).digest == whole.digest
    assert whole.digest != psms.build(adapter.digest).digest
    with pytest.raises(SmoothgateError) as caught:
        tuned(*parts, tmp_path / "broken", replace(votes, questions=("What else?",)))
    assert caught.value.code == "other_recipe"


def test_an_attack_moves_answers_away(
    adapter: VisionAdapter, calibration: Calibration, language_model: FrozenLanguageModel
) -> None:
    encoder = UnitEncoder(adapter, calibration, psms.build(adapter.digest))
    x, sigma = pictures(0, 24), torch.full((24,), 0.4)
    tokens = adapter.tokens(x)
    asked = VoteTuning(language_model, VOTES).ask(encoder, x, tokens, seeded(1, 0))
    found = attack(asked.gain, x, sigma, seeded(2, 0))

    def gain(z: Tensor) -> float:
        with torch.no_grad():
            rows = torch.arange(len(x))
            return sum(float(asked.gain(*noise_pairs(z, sigma, seeded(4, i)), rows)) for i in range(4))

    assert gain(found) > gain(x)


def test_a_psm_without_weights_is_refused(
    adapter: VisionAdapter, calibration: Calibration, language_model: FrozenLanguageModel, tmp_path: Path
) -> None:
    trainer = Trainer(adapter, calibration, pictures, pictures, RECIPE, tmp_path)
    with pytest.raises(SmoothgateError, match="no weights"):
        trainer.train_for_votes(PSM(), VoteTuning(language_model, VOTES))


def command(*options: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["psm", "tune", *options], env={"COLUMNS": "200"})
    return result.exit_code, result.output


def test_the_command_tunes_on_files_of_pictures(
    adapter: VisionAdapter,
    calibration: Calibration,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(psm_training_commands, "CALIBRATED", FEWEST)
    monkeypatch.setattr(common, "_SCORED", 2)
    monkeypatch.setattr(common, "_COPIES", 2)
    start, folder = tmp_path / "start", tmp_path / "pictures"
    psms.build(adapter.digest).save(start)
    calibration.save(start)
    folder.mkdir()
    for i, canvas in enumerate(pictures(0, 24)):
        pixels = (canvas * 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / f"{i:02}.png")
    options = ["--votes", "--model", str(checkpoint), "--psm", str(start), "--images", str(folder)]
    options += ["--output", str(tmp_path / "end"), "--steps", "2", "--batch", "4", "--agreement", "0.5"]
    code, said = command(*options)
    assert code == 1
    assert "calibrated at no noise level" in said
    code, said = command(*options, "--sigma", "0.25", "--question", "What digit is shown?")
    assert code == 0, said
    facts = PSM.load(tmp_path / "end").training_facts["tuned_for_votes"]
    assert facts["questions"] == ["What digit is shown?"]
    assert facts["lambda_agreement"] == 0.5
    assert facts["recipe"]["sigmas"] == [0.25]
    assert set(Calibration.load(tmp_path / "end").figures.scores) == {"0.25"}


@pytest.mark.parametrize("option", [["--attacked"], ["--question", "What?"], ["--agreement", "1"]])
def test_options_of_votes_need_votes(option: list[str]) -> None:
    code, said = command(*option)
    assert code == 1
    assert "need --votes" in said
