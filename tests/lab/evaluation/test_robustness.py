"""`smoothgate evaluate`, small: that it measures, resumes and tells the truth, not how good anything is."""

import json
import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from smoothgate.cli.main import app
from smoothgate_lab.evaluation.attacks.square import square
from smoothgate_lab.evaluation.evaluation_plan import EvaluationPlan, load_plan
from smoothgate_lab.evaluation.report import markdown, summarise
from smoothgate_lab.evaluation.robustness import Evaluation
from smoothgate_lab.evaluation.shares import Share

PLAN = """
n = 3
n_select = 8
n_certify = 64
n_check = 64
steps = 2
draws = 2
batch = 2
radii = [0.25]
defences = [{name = "none", parts = "none"}, {name = "FS + PSM", parts = "both"}]
attacks = [
  {name = "PGD", objective = "answer", setting = "transferred", linf = [16]},
  {name = "PGD", objective = "untargeted", setting = "adaptive", l2 = [0.05]},
]
"""


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    file = tmp_path / "plan.toml"
    file.write_text(PLAN)
    return file


@pytest.mark.long
def test_the_command_attacks_reports_and_resumes(
    plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    command = ["evaluate", str(plan), "--output", str(output), "--json", str(tmp_path / "out.json")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "out.json").read_text())
    cells = [(row["defence"], row["attack"], row["setting"], row["norm"]) for row in figures["rows"]]
    assert cells == [
        ("none", "clean", "clean", None),
        ("FS + PSM", "clean", "clean", None),
        ("none", "PGD", "transferred", "linf"),
        ("FS + PSM", "PGD", "transferred", "linf"),
        ("none", "PGD", "adaptive", "l2"),
        ("FS + PSM", "PGD", "adaptive", "l2"),
    ]
    lines = [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]
    assert len(lines) == 6 * 3
    for line in lines:
        assert line["linf" if line["norm"] == "linf" else "l2"] <= line["eps"] + 1e-6
        assert not line["contradicted"]
    transferred = [line for line in lines if line["setting"] == "transferred"]
    by_defence = [[each["l2"] for each in transferred if each["defence"] == d] for d in ("none", "FS + PSM")]
    assert by_defence[0] == by_defence[1], "the same pictures are shown to every defence"
    page = (output / "report.html").read_text()
    assert "<svg" in page
    assert "data:image/png" in page
    assert not re.search(r"(src|href)=\"http|@import|url\(http", page), "nothing comes from outside"

    # Another plan in the same folder takes over what is the same in both, and nothing else.
    wanted = load_plan(plan)
    assert len(Evaluation(wanted, output).lines()) == len(lines)
    assert len(Evaluation(wanted.model_copy(update={"attacks": ()}), output).lines()) == 2 * 3
    assert not Evaluation(wanted.model_copy(update={"sigma": 0.25}), output).lines()

    # Cut off in the middle of a line, the second of a batch of two: what is missing is done again, by more
    # threads, with the same result.
    count = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    whole = (output / "results.jsonl").read_text()
    cut_off = "".join(whole.splitlines(keepends=True)[:8])[:-20]
    (output / "results.jsonl").write_text(cut_off)
    so_far = CliRunner().invoke(app, [*command, "--report-only"])
    assert so_far.exit_code == 0, so_far.output
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["n"] for row in rows] == [3, 3, 1], "what is there, and nothing is added"
    assert (output / "results.jsonl").read_text() == cut_off, "another run may be in the middle of that line"
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 0, again.output
    torch.set_num_threads(count)
    assert sorted((output / "results.jsonl").read_text().splitlines()) == sorted(whole.splitlines())


def test_an_attack_that_leaves_the_ball_would_refute_the_certificate(plan: Path, tmp_path: Path) -> None:
    """A picture of another digit, passed off as one within a small radius: the check can see it."""
    wanted = load_plan(plan).model_copy(update={"n_certify": 512, "n_check": 512})
    evaluation = Evaluation(wanted, tmp_path / "out")
    cell = next(cell for cell in wanted.cells() if cell.attack and cell.defence.parts == "both")
    twin = evaluation.scenes.twins[0]
    assert evaluation.clean.held_against(cell, twin, 0.05, 0)[1]
    honest = float((twin - evaluation.scenes.canvases[0]).norm())
    assert not evaluation.clean.held_against(cell, twin, honest, 0)[1]


TWIN = "{name = 'a', parts = 'none'}"


TWICE = f"defences = [{TWIN}]\n" + 2 * (
    "[[attacks]]\nname = 'a'\nobjective = 'answer'\nsetting = 'adaptive'\nlinf = [8]\n"
)


def one_attack(objective: str, setting: str, more: str) -> str:
    attack = f"[[attacks]]\nname = 'a'\nobjective = '{objective}'\nsetting = '{setting}'\n{more}\n"
    return "defences = []\n" + attack


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("n = 0\ndefences = []\nattacks = []", "n: "),
        ("steps = 'many'", "steps"),
        ("colour = 1\ndefences = []\nattacks = []", "colour"),
        ("n = ", "Invalid"),
        (one_attack("square", "service", "l2 = [1]"), "l_inf"),
        (one_attack("answer", "service", "linf = [8]"), "no gradients"),
        (one_attack("answer", "adaptive", "defences = ['ours']"), "no defence is named ours"),
        (TWICE, "twice"),
        (f"attacks = []\ndefences = [{TWIN}, {TWIN}]", "same name"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "plan.toml"
    file.write_text(text)
    result = CliRunner().invoke(app, ["evaluate", str(file), "--output", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert complaint in result.output


def test_shares_come_with_the_exact_interval() -> None:
    assert Share(0, 200).interval() == pytest.approx((0, 0.0183), abs=1e-4)
    assert Share(100, 200).interval() == pytest.approx((0.4287, 0.5713), abs=1e-4)


def test_clean_rows_have_the_mean_bound_and_nothing_that_looks_like_a_certified_answer() -> None:
    def line(right: bool, bound: float) -> dict[str, object]:
        clean = {"attack": "clean", "setting": "clean", "question": "digit", "norm": None, "eps": 0.0}
        told = {"right": {"digit": right}, "hit": False, "cosine": 1.0, "l2": 0.0, "contradicted": False}
        return clean | told | {"defence": "d", "key": "d, clean", "bound": {"0.25": bound}}

    plan = EvaluationPlan(defences=(), attacks=(), radii=(0.25,))
    (row,) = summarise([line(True, 0.9), line(True, 0.6), line(False, 0.9), line(True, 0.8)], plan)
    assert row["fcsb"]["0.25"] == pytest.approx(0.8)
    assert row["accuracy"]["digit"] == 0.75
    assert "certified accuracy" not in markdown([row])


def test_square_needs_scores_alone_and_stays_within_the_ball() -> None:
    gen = torch.Generator().manual_seed(0)
    x, wanted = torch.rand(3, 3, 12, 12, generator=gen), torch.rand(3, 3, 12, 12, generator=gen)
    asked = 0

    def score(z: torch.Tensor) -> torch.Tensor:
        nonlocal asked
        asked += 1
        return (z - wanted).square().sum((1, 2, 3))

    start = score(x)
    found = square(score, x, 0.1, 200, gen)
    assert asked == 201
    assert float((found - x).abs().max()) <= 0.1 + 1e-6
    assert bool((score(found) < 0.95 * start).all())
