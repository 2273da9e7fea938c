"""`make results-quick`, with the real service under a black-box attack."""

import gzip
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from smoothgate.cli.main import app
from smoothgate.errors import SmoothgateError
from smoothgate_lab.evaluation.evaluation_plan import load_plan
from smoothgate_lab.evaluation.report import markdown, summarise
from smoothgate_lab.evaluation.robustness import Evaluation
from smoothgate_lab.evaluation.running_service import RemoteModel

DOCS = Path(__file__).parents[3] / "docs"
PLANS = DOCS / "plans"


@pytest.mark.long
@pytest.mark.engine
def test_the_quick_plan_runs_through_and_asks_the_service(
    demo_vllm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMOOTHGATE_ENGINE_URL", demo_vllm)
    output, figures = tmp_path / "out", tmp_path / "out.json"
    plan = PLANS / "results-quick.toml"
    command = ["evaluate", str(plan), "--output", str(output), "--json", str(figures)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    rows = json.loads(figures.read_text())["rows"]
    assert [row["n"] for row in rows] == [2] * len(rows)
    assert sum(row["contradictions"] for row in rows) == 0
    (asked,) = [row for row in rows if row["setting"] == "service"]
    assert asked["l2"] > 0
    # It was started for this, and stopped.
    assert "Starting the service" in result.output
    last = json.loads((output / "service.log").read_text().splitlines()[-1])
    assert last["event"] == "stopped"


@pytest.mark.parametrize(
    "name",
    ["results", "results-square", "results-sigma-025", "results-sigma-075", "results-resubmitted", "photos"],
)
def test_the_long_plans_can_be_read(name: str) -> None:
    plan = load_plan(PLANS / f"{name}.toml")
    assert plan.steps >= 40
    assert plan.draws >= 16


def test_a_service_that_is_not_there_is_named(tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(
        "n = 1\nn_select = 2\nn_certify = 50\nqueries = 1\n"
        "defences = [{name = 'ours', parts = 'both'}]\n"
        "attacks = [{name = 'square', objective = 'square', setting = 'service', linf = [8]}]\n"
    )
    command = ["evaluate", str(plan), "--output", str(tmp_path / "out"), "--url", "http://127.0.0.1:9"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert "attacked service" in result.output


def test_a_service_with_another_psm_is_not_attacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = Evaluation(load_plan(PLANS / "results-quick.toml"), tmp_path)
    evaluation.url = "http://127.0.0.1:9"
    cell = next(c for c in evaluation.plan.cells() if c.attack and c.attack.setting == "service")
    monkeypatch.setattr(RemoteModel, "psm_digest", lambda *_: "0" * 64)
    with pytest.raises(SmoothgateError) as caught:
        evaluation.pictures(cell, range(1))
    assert caught.value.code == "other_service"


def test_what_the_page_quotes_is_in_the_tables() -> None:
    tables = {line for file in (DOCS / "results").glob("*.md") for line in file.read_text().splitlines()}
    names = tuple(f"| {defence.name} |" for defence in load_plan(PLANS / "results.toml").defences)
    quoted = [line for line in (DOCS / "results.md").read_text().splitlines() if line.startswith(names)]
    assert len(quoted) > 20
    assert not {*quoted} - tables


def test_the_published_tables_are_of_what_is_bundled(tmp_path: Path) -> None:
    """Whoever changes the bundled model or PSM has to attack it anew."""
    plan = load_plan(PLANS / "results.toml")
    assert plan.n >= 200
    bundled = tuple(defence for defence in plan.defences if defence.model is None)
    names = {defence.name for defence in bundled}
    attacks = tuple(
        attack.model_copy(update={"defences": tuple(name for name in attack.defences if name in names)})
        for attack in plan.attacks
    )
    plan = plan.model_copy(update={"defences": bundled, "attacks": attacks})
    lines = gzip.decompress((DOCS / "results" / "results.jsonl.gz").read_bytes())
    (tmp_path / "results.jsonl").write_bytes(lines)
    evaluation = Evaluation(plan, tmp_path)
    rows = summarise(evaluation.lines(), plan)
    assert [row["n"] for row in rows] == [plan.size(cell) for cell in plan.cells()]
    published = (DOCS / "results" / "table.md").read_text().splitlines()
    assert not {*markdown(rows).splitlines()} - {*published}
