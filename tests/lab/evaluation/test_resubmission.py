"""Resubmission: that the same pictures are sent with the noise that each service would use, and counted."""

import gzip
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from smoothgate.cli.main import app
from smoothgate_lab.evaluation.evaluation_plan import load_plan
from smoothgate_lab.evaluation.resubmission import Resubmission, Resubmitted, altered, figures, markdown
from smoothgate_lab.evaluation.robustness import Evaluation

DOCS = Path(__file__).parents[3] / "docs"
# So much noise and so few copies that answers differ from one time to the next.
PLAN = """
n = 2
sigma = 1.0
n_select = 1
n_certify = 50
n_check = 50
steps = 1
draws = 1
batch = 2
defences = [{name = "ours", parts = "both"}]
attacks = [{name = "PGD", objective = "answer", setting = "adaptive", linf = [16]}]
"""


def line(fresh: list[str], changed: list[str], number: int = 0) -> Resubmitted:
    return Resubmitted(
        made_of="",
        key="ours, PGD",
        defence="ours",
        attack="PGD",
        setting="adaptive",
        question="digit",
        norm="linf",
        eps=16 / 255,
        index=number,
        right="7",
        wanted="3",
        fresh=fresh,
        altered=changed,
    )


@pytest.mark.long
def test_the_command_sends_the_evaluations_pictures_and_resumes(tmp_path: Path) -> None:
    plan, output, figures_file = tmp_path / "plan.toml", tmp_path / "out", tmp_path / "out.json"
    plan.write_text(PLAN)
    assert CliRunner().invoke(app, ["evaluate", str(plan), "--output", str(output)]).exit_code == 0
    once = {
        (one["key"], one["index"]): one["given"]["digit"]
        for one in map(json.loads, (output / "results.jsonl").read_text().splitlines())
    }
    command = ["demo", "resubmit", str(plan), "--output", str(output), "--times", "5"]
    result = CliRunner().invoke(app, [*command, "--json", str(figures_file)])
    assert result.exit_code == 0, result.output
    stored = (output / "resubmitted.jsonl").read_text()
    lines = [Resubmitted(**json.loads(text)) for text in stored.splitlines()]
    assert [(each.attack, each.index) for each in lines] == [
        ("clean", 0),
        ("clean", 1),
        ("PGD", 0),
        ("PGD", 1),
    ]
    assert all(len(each.fresh) == len(each.altered) == 5 for each in lines)
    assert [each.fresh[0] for each in lines] == [once[each.key, each.index] for each in lines]
    assert any(len({*each.fresh}) > 1 for each in lines), "new noise, other answers"
    assert any(len({*each.altered}) > 1 for each in lines), "another picture has other noise"
    rows = json.loads(figures_file.read_text())["rows"]
    assert [(row["attack"], row["n"], row["times"]) for row in rows] == [("clean", 2, 5), ("PGD", 2, 5)]

    # Cut off in the middle of a line: what is missing is sent again, with the same answers.
    (output / "resubmitted.jsonl").write_text(stored[:-30])
    assert CliRunner().invoke(app, command).exit_code == 0
    assert (output / "resubmitted.jsonl").read_text() == stored


def test_the_noise_of_a_picture_is_the_same_each_time_and_another_ones_is_not(tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN)
    evaluation = Evaluation(load_plan(plan), tmp_path)
    resubmission = Resubmission(evaluation, 2)
    cell = resubmission.cells[0]
    victim = evaluation.victim(cell.defence, 2)
    first, second = altered(evaluation.scenes.canvases[0], evaluation.scenes.canvases[0], 2, 1)
    tokens = [resubmission._with_its_own_noise(victim, cell, x) for x in (first, first, second)]  # type: ignore[arg-type]
    assert torch.equal(tokens[0], tokens[1])
    assert float((tokens[0] - tokens[2]).norm() / tokens[0].norm()) > 0.01


def test_altered_pictures_differ_in_one_value_by_one_level_and_stay_in_the_ball() -> None:
    clean = torch.rand(3, 8, 8)
    attacked = (clean + (16 / 255) * torch.randn(3, 8, 8).sign()).clamp(0, 1)
    first, *others = altered(attacked, clean, 10, 5)
    assert torch.equal(first, attacked)
    for other in others:
        (difference,) = (other - attacked)[other != attacked]
        assert float(difference.abs()) == pytest.approx(1 / 255, abs=1e-6)
        assert float((other - clean).abs().max()) <= 16 / 255 + 1e-6
        assert 0 <= float(other.min()) <= float(other.max()) <= 1
    assert len({tuple(other.flatten().tolist()) for other in others}) == 9
    # A clean picture is altered too.
    assert all(
        0 <= float(x.min()) <= float(x.max()) <= 1
        for x in altered(torch.ones(3, 4, 4), torch.ones(3, 4, 4), 3, 1)
    )


def test_one_success_of_all_requests_counts() -> None:
    lines = [
        line(["7", "3"], ["7", "7"], 0),
        line(["3", "7"], ["3", "7"], 1),
        line(["7", "1"], ["7", "3"], 2),
        line(["7", "7"], ["7", "7"], 3),
    ]
    (row,) = figures(lines)
    assert {name: share["k"] for name, share in row["hits"].items()} == {
        "once": 1,
        "fresh": 2,
        "repeated": 1,
        "altered": 2,
    }
    assert {name: share["k"] for name, share in row["wrong"].items()} == {
        "once": 1,
        "fresh": 3,
        "repeated": 1,
        "altered": 2,
    }
    assert "| ours | PGD, adaptive | l_inf 16/255 | 4 | 25.0% (0.6% to 80.6%) | 50.0%" in markdown([row])
    other = replace(lines[0], key="ours, clean", attack="clean", setting="clean", norm=None, eps=0.0)
    assert "| ours | clean | - | 1 |" in markdown(figures([other]))


def test_without_noise_there_is_nothing_to_send_again(tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text("n = 1\ndefences = [{name = 'none', parts = 'none'}]\nattacks = []\n")
    result = CliRunner().invoke(app, ["demo", "resubmit", str(plan), "--output", str(tmp_path)])
    assert result.exit_code == 1
    assert "no smoothed defence" in result.output


def test_the_published_table_is_of_what_is_bundled(tmp_path: Path) -> None:
    """Whoever changes the bundled model or PSM has to attack it anew."""
    plan = DOCS / "plans" / "results-resubmitted.toml"
    packed = (DOCS / "results" / "resubmitted.jsonl.gz").read_bytes()
    (tmp_path / "resubmitted.jsonl").write_bytes(gzip.decompress(packed))
    resubmission = Resubmission(Evaluation(load_plan(plan), tmp_path), 10)
    lines = resubmission.lines()
    rows = figures(lines)
    assert [row["n"] for row in rows] == [load_plan(plan).size(cell) for cell in resubmission.cells]
    assert markdown(rows) == (DOCS / "results" / "resubmitted.md").read_text()
    # The pictures are those of docs/results.md: sent once, they are answered as there.
    results = gzip.decompress((DOCS / "results" / "results.jsonl.gz").read_bytes()).decode().splitlines()
    once = {(one["key"], one["index"]): one["given"] for one in map(json.loads, results)}
    same = [each.fresh[0] == once[each.key, each.index][each.question] for each in lines]
    assert sum(same) >= 0.99 * len(same)
    assert {asdict(each)["defence"] for each in lines} == {"FS + PSM, fine-tuned"}
