"""Over-refusal: votes end as the service ends them, and the published table is of what is bundled."""

import gzip
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from smoothgate.certify.votes import Candidates, VoteCount, VoteTerms
from smoothgate.cli.main import app
from smoothgate.settings import Settings
from smoothgate_lab.evaluation.over_refusal import DEFAULT_BUDGET, figures, largest_radius, markdown
from smoothgate_lab.evaluation.vote_samples import ALPHA, BLOCK, N_SELECT
from tests.lab.evaluation.test_votes import block

RESULTS = Path(__file__).parents[3] / "docs" / "results"
SURE = ["7"] * (N_SELECT + BLOCK)
TORN = ["7", "3"] * ((N_SELECT + BLOCK) // 2)


@pytest.mark.parametrize("answers", [SURE, TORN, ["7"] * 60 + ["3"] * 20 + ["7"] * (N_SELECT + BLOCK - 80)])
@pytest.mark.parametrize("radius", [0.25, 0.5, 0.75, 1.0])
def test_a_vote_ends_as_the_service_ends_it(answers: list[str], radius: float) -> None:
    candidates = Candidates.of(answers[:N_SELECT])
    count = VoteCount(VoteTerms(0.5, ALPHA, radius), candidates.votes, 256)
    for answer in answers[N_SELECT : N_SELECT + 256]:
        if count.update(candidates.tally([answer])) is not None:
            break
    assert (largest_radius(answers, 0.5, 256) >= radius) == (count.reason == "certified")


def test_a_vote_that_agrees_reaches_sigma_with_44_samples_and_not_with_43() -> None:
    """docs/answers.md: a radius of sigma takes 44 fresh samples where all agree."""
    assert largest_radius(SURE, 0.5, 44) >= 0.5 > largest_radius(SURE, 0.5, 43)
    assert largest_radius(TORN, 0.5, BLOCK) == 0
    with pytest.raises(ValueError, match="fewer than 44"):
        largest_radius(SURE[: N_SELECT + 43], 0.5, 44)


def test_votes_count_whether_right_or_not_and_impossible_radii_are_left_out() -> None:
    wrong = ["3"] * (N_SELECT + BLOCK)
    measured = figures([block(0, SURE), block(1, wrong), block(2, TORN), block(3, TORN)])
    default, most = measured["rows"]
    assert (default["budget"], most["budget"]) == (256, 512)
    assert default["scenes"] == most["scenes"] == 4
    assert default["abstained"]["0.5"]["k"] == most["abstained"]["1"]["k"] == 2
    # A radius of 2 sigma takes 328 samples.
    assert default["abstained"]["1"] is None
    table = markdown(measured)
    assert "| 0.5 | 256 | 4 | 50.0% (6.8% to 93.2%) |" in table
    assert table.count(" - |") == 1


def test_the_default_budget_is_that_of_the_service() -> None:
    assert Settings.model_fields["n_certify"].default == DEFAULT_BUDGET
    assert Settings.model_fields["n_select_answer"].default == N_SELECT


@pytest.mark.long
def test_the_published_table_is_of_what_is_bundled(tmp_path: Path) -> None:
    (tmp_path / "votes.jsonl").write_bytes(gzip.decompress((RESULTS / "votes.jsonl.gz").read_bytes()))
    file = tmp_path / "over-refusal.json"
    result = CliRunner().invoke(app, ["demo", "over-refusal", "--output", str(tmp_path), "--json", str(file)])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "over-refusal.md").read_text() == (RESULTS / "over-refusal.md").read_text()
    assert {row["question"] for row in json.loads(file.read_text())["rows"]} >= {"digit", "describe"}


def test_without_samples_the_command_says_so(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["demo", "over-refusal", "--output", str(tmp_path)])
    assert result.exit_code == 1
    assert "no samples" in result.output
