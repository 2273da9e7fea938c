"""From photographs to certified accuracy, with tiny networks: every command of docs/photographs.md."""

from functools import partial
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from smoothgate.cli.main import app
from smoothgate.sampling.chance import FEWEST
from smoothgate_lab.cli import psm_training_commands, vote_runs
from smoothgate_lab.evaluation import vote_attacks, vote_report, vote_samples
from smoothgate_lab.evaluation.asked_scenes import photo_scenes
from smoothgate_lab.evaluation.vote_attacks import AttackTerms
from smoothgate_lab.evaluation.vote_samples import N_SELECT, VoteSamples, sampled_scenes
from smoothgate_lab.photos.photo_training import PhotoTraining
from smoothgate_lab.photos.photographs import CLASSES, load_photographs
from tests.lab.photos.made_photographs import write_copies
from tests.lab.photos.tiny_recipe import RECIPE

STAGES = {"denoise": 0, "purifier": 0, "mapper": 1, "joint": 1, "served": 1}


def run(*words: str | Path) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.long
def test_a_psm_is_trained_on_photographs_and_their_answers_are_certified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, model, psm, votes = (tmp_path / name for name in ("data", "model", "psm", "votes"))
    data.mkdir()
    write_copies(data, 12, "train")
    write_copies(data, 3, "test")
    PhotoTraining(load_photographs(data, "train"), tmp_path / "work", 1, recipe=RECIPE).run(tmp_path)

    monkeypatch.setattr(psm_training_commands, "CALIBRATED", FEWEST)
    run("photos", "pictures", "--data", data, "--output", tmp_path / "pictures")
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 120
    stages = [word for stage, steps in STAGES.items() for word in (f"--{stage}-steps", str(steps))]
    files: list[str | Path] = ["--model", model, "--images", tmp_path / "pictures", "--output", psm]
    # A purifier would take a minute to measure.
    parts = ["--sigma", "0.25", "--batch", "8", "--purifier", "identity"]
    run("psm", "train", *files, *parts, *stages, "--bfloat16")

    for module in (vote_samples, vote_report, vote_attacks, vote_runs):
        monkeypatch.setattr(module, "BLOCK", 16)
    monkeypatch.setattr(vote_samples, "N_MEAN", 32)
    scenes = photo_scenes(load_photographs(data, "test"), model, psm)
    VoteSamples(votes, 26, scenes).run([0.25], 2, 16, lambda sigma, count: None)
    samples = VoteSamples(votes, 26, scenes).blocks()
    (first, second) = sampled_scenes(samples, 0.25, 16)
    assert first.right["what"] == "A photo of an airplane."
    assert second.right["what"] == "A photo of an automobile."
    assert {len(texts) for texts in first.answers.values()} == {N_SELECT + 16}

    options: list[str | Path] = ["--data", data, "--model", model, "--psm", psm, "--output", votes]
    assert "what" in run("photos", "votes", *options, "--report-only")
    assert "right and certified" in (votes / "votes.svg").read_text()

    few = partial(AttackTerms, steps=2, draws=2, fresh=16)
    monkeypatch.setattr(vote_attacks, "AttackTerms", few)
    run("photos", "attack-votes", *options, "--sigma", "0.25", "--pictures", "2", "--factor", "1")
    (row,) = (votes / "attacked-votes.md").read_text().splitlines()[4:]
    assert row.startswith("| 1 | 2 |"), "a tiny model says the same of every noisy copy"


def test_the_classes_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_copies(tmp_path, 3, "test")
    monkeypatch.setattr("smoothgate_lab.evaluation.asked_scenes._encoder", lambda model, psm: None)
    test = load_photographs(tmp_path, "test")
    scenes = photo_scenes(test, tmp_path, tmp_path)
    assert [right["what"].split()[-1][:-1] for right in scenes.right] == list(CLASSES) * 3
    assert torch.equal(scenes.canvases[1], test.canvases[3])
    assert scenes.pictures
