"""From photographs to certified accuracy, with tiny networks: every command of docs/photographs.md."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from smoothgate.cli.main import app
from smoothgate.errors import MalformedRequest, SmoothgateError
from smoothgate.sampling.chance import FEWEST
from smoothgate_lab.cli import psm_training_commands, vote_runs
from smoothgate_lab.evaluation import vote_attacks, vote_report, vote_samples
from smoothgate_lab.evaluation.asked_scenes import photo_scenes
from smoothgate_lab.evaluation.attacked_scenes import attacked_photographs
from smoothgate_lab.evaluation.vote_attacks import AttackTerms
from smoothgate_lab.evaluation.vote_samples import N_SELECT, VoteSamples, sampled_scenes
from smoothgate_lab.photos.photo_conversation import WHAT
from smoothgate_lab.photos.photo_sets import CIFAR10
from smoothgate_lab.photos.photo_training import PhotoTraining
from smoothgate_lab.photos.photographs import load_photographs
from tests.lab.photos.made_photographs import write_copies
from tests.lab.photos.tiny_recipe import RECIPE

PLAN = """
n = 2
n_select = 4
n_certify = 64
n_check = 8
steps = 1
draws = 1
sigma = 0.25
radii = [0.25]
defences = [{name = "none", parts = "none"}, {name = "FS + PSM", parts = "both"}]
[[attacks]]
name = "PGD"
objective = "answer"
question = "what"
setting = "transferred"
linf = [8]
[[attacks]]
name = "PGD"
objective = "untargeted"
question = "what"
setting = "adaptive"
l2 = [0.5]
defences = ["FS + PSM"]
"""

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

    plan, attacks = tmp_path / "plan.toml", tmp_path / "attacks"
    plan.write_text(PLAN)
    figures = tmp_path / "attacks.json"
    run("photos", "attack", plan, *options[:-1], attacks, "--json", figures)
    rows = json.loads(figures.read_text())["rows"]
    assert [(each["attack"], each["setting"], each["n"]) for each in rows] == [
        *2 * [("clean", "clean", 2)],
        *2 * [("PGD", "transferred", 2)],
        ("PGD", "adaptive", 2),
    ]
    assert all(set(each["accuracy"]) == {"what", "kind", "describe"} for each in rows)
    assert {each["question"] for each in rows} == {"what"}
    assert set(rows[1]["fcsb"]) == {"0.25"}
    lines = (attacks / "results.jsonl").read_text()
    run("photos", "attack", plan, *options[:-1], attacks)
    assert (attacks / "results.jsonl").read_text() == lines, "nothing is attacked again"


def test_the_twin_of_an_attacked_photograph_is_of_another_class(tmp_path: Path) -> None:
    write_copies(tmp_path, 3, "test")
    test = load_photographs(tmp_path, "test")
    scenes = attacked_photographs(test, 30)
    assert list(scenes.facts) == list(CIFAR10.nouns) * 3
    assert all(facts != twin for facts, twin in zip(scenes.facts, scenes.twin_facts, strict=True))
    assert torch.equal(scenes.twins[:-1], scenes.canvases[1:])
    assert [scenes.classes[label] for label in scenes.labels] == [
        WHAT.answer(facts) for facts in scenes.facts
    ]
    assert scenes.question(None) is WHAT
    with pytest.raises(MalformedRequest, match=r"digit, but what, kind, describe"):
        scenes.question("digit")
    with pytest.raises(SmoothgateError, match="31 pictures"):
        attacked_photographs(test, 31)


def test_the_classes_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_copies(tmp_path, 3, "test")
    monkeypatch.setattr("smoothgate_lab.evaluation.asked_scenes._encoder", lambda model, psm: None)
    test = load_photographs(tmp_path, "test")
    scenes = photo_scenes(test, tmp_path, tmp_path)
    assert [right["what"] for right in scenes.right] == [WHAT.answer(noun) for noun in CIFAR10.nouns] * 3
    assert torch.equal(scenes.canvases[1], test.canvases[3])
    others = photo_scenes(test, tmp_path, tmp_path, 1)
    assert [right["what"] for right in others.right] == [WHAT.answer(noun) for noun in CIFAR10.nouns] * 2
    assert torch.equal(others.canvases[1], test.canvases[4])
    assert "" != others.pictures != scenes.pictures != ""
    with pytest.raises(SmoothgateError, match="no test picture of number 3"):
        photo_scenes(test, tmp_path, tmp_path, 3)
