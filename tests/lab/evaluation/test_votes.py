"""Certified accuracy of answers: that samples resume exactly, and that the figures follow from them."""

import gzip
import json
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from smoothgate.certify.votes import Tally, VoteCount, VoteTerms
from smoothgate.cli.main import app
from smoothgate_lab.evaluation import vote_samples
from smoothgate_lab.evaluation.asked_scenes import demo_scenes
from smoothgate_lab.evaluation.json_lines import appending, whole_lines
from smoothgate_lab.evaluation.vote_report import figures, markdown, plot
from smoothgate_lab.evaluation.vote_samples import (
    ALPHA,
    BLOCK,
    N_SELECT,
    Block,
    VoteSamples,
    sampled_scenes,
    vote,
)

RESULTS = Path(__file__).parents[3] / "docs" / "results"
SEED = 24


def block(scene: int, answers: list[str], *, right: str = "7", sigma: float = 0.5, number: int = 0) -> Block:
    """A block with these answers to one question."""
    kinds = list(dict.fromkeys(answers))
    first = number == 0
    return Block(
        made_of="",
        seed=0,
        sigma=sigma,
        scene=scene,
        block=number,
        right={"digit": right},
        answers={"digit": kinds},
        votes={"digit": [kinds.index(answer) for answer in answers]},
        mean={"digit": right} if first else None,
        fcsb={"0.5": 0.7} if first else None,
        seconds=2.0,
    )


def test_samples_resume_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vote_samples, "BLOCK", 16)
    monkeypatch.setattr(vote_samples, "N_MEAN", 32)

    def drawn(folder: Path, n: int) -> list[Block]:
        samples = VoteSamples(folder, SEED, demo_scenes(SEED))
        samples.run([1.0], 2, n, lambda sigma, count: None)
        return samples.blocks()

    def content(blocks: list[Block]) -> list[dict[str, object]]:
        return [asdict(each) | {"seconds": 0} for each in blocks]

    at_once = drawn(tmp_path / "a", 32)
    drawn(tmp_path / "b", 16)
    # The run was killed while it wrote its last line.
    file = tmp_path / "b" / "votes.jsonl"
    file.write_text(file.read_text()[:-40])
    resumed = drawn(tmp_path / "b", 32)
    assert [(each.scene, each.block) for each in at_once] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert content(at_once) == content(resumed)
    assert len({each.seed for each in at_once}) == 4
    (first, second) = sampled_scenes(at_once, 1.0, 32)
    assert {len(texts) for texts in first.answers.values()} == {N_SELECT + 32}
    assert set(first.right) == {"digit", "ink", "parity", "describe"}
    assert first.right != second.right
    # Others' samples are not mixed with these.
    assert VoteSamples(tmp_path / "a", SEED + 1, demo_scenes(SEED + 1)).blocks() == []


def test_lines_that_are_being_written_are_not_read_and_cut_off_later(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    assert whole_lines(file) == []
    file.write_text('{"a": 1}\n{"a": ')
    assert whole_lines(file) == [{"a": 1}]
    with appending(file) as add:
        add({"a": 2})
        assert whole_lines(file) == [{"a": 1}, {"a": 2}]


def test_the_answer_is_chosen_on_the_selection_split_alone() -> None:
    candidates, statement = vote(["3"] * N_SELECT + ["7"] * BLOCK, 0.5)
    assert candidates.answer == "3"
    assert statement.radius is None
    candidates, statement = vote([" The digit is 7.", "the digit is 7. "] * (N_SELECT // 2) + ["7"], 0.5)
    assert candidates.answer == "the digit is 7."


def test_wrong_answers_and_abstentions_do_not_count() -> None:
    sure, wrong = ["7"] * (N_SELECT + BLOCK), ["3"] * (N_SELECT + BLOCK)
    torn = ["7", "3"] * ((N_SELECT + BLOCK) // 2)
    blocks = [block(0, sure), block(1, wrong), block(2, torn), block(3, sure, sigma=0.25)]
    measured = figures(blocks)
    (quarter, half) = measured["rows"]
    count = VoteCount(VoteTerms(0.5, ALPHA), Tally(hits=N_SELECT), BLOCK)
    count.update(Tally(hits=BLOCK))
    best = count.statement().radius
    assert best is not None
    assert (half["sigma"], half["scenes"]) == (0.5, 3)
    assert half["right"]["k"] == 2, "the torn one's first answer is the right one"
    assert half["right_mean"]["k"] == 3
    assert half["abstained"]["k"] == 1
    assert half["certified"]["0.5"]["k"] == half["certified"]["1"]["k"] == 1
    assert half["certified"]["1.25"]["k"] == 0, "beyond what as many samples can show"
    assert half["radii"] == [best]
    assert half["mean_radius"] == pytest.approx(best / 3)
    assert half["votes"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert quarter["radii"] == [pytest.approx(best / 2, rel=1e-6)]
    assert measured["samples_per_second"] == pytest.approx((N_SELECT + BLOCK) / 2)


def test_generations_are_those_of_the_service() -> None:
    """Where all agree, a radius of sigma takes 44 fresh samples (docs/answers.md)."""
    (row,) = figures([block(0, ["7"] * (N_SELECT + BLOCK))])["rows"]
    assert row["generations"] == N_SELECT + 44
    assert row["on_target"]["k"] == 1


def test_scenes_that_have_not_all_samples_are_left_out_of_the_larger_n() -> None:
    more = ["7"] * BLOCK
    sure = ["7"] * N_SELECT + more
    measured = figures([block(0, sure), block(0, more, number=1), block(1, sure)])
    assert [(row["n"], row["scenes"]) for row in measured["rows"]] == [(BLOCK, 2), (2 * BLOCK, 1)]
    tables = markdown(measured)
    assert "| 0.5 | 512 | 2 | 100.0% | 100.0% | 100.0% | 100.0% | 0.0% |" in tables
    assert "| 0.5 | 1,024 | 1 | 100.0% | 100.0% | 100.0% | 100.0% | 0.0% | 0.0% | 0.0% | 1.2" in tables
    assert plot(measured).count("sigma 0.5, n = 1,024") == 1


def test_without_samples_the_command_says_so(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["demo", "votes", "--output", str(tmp_path), "--report-only"])
    assert result.exit_code == 1
    assert "no samples" in result.output


@pytest.mark.long
def test_the_published_table_is_of_what_is_bundled(tmp_path: Path) -> None:
    """Whoever changes the bundled model or PSM has to measure it anew."""
    (tmp_path / "votes.jsonl").write_bytes(gzip.decompress((RESULTS / "votes.jsonl.gz").read_bytes()))
    json_file = tmp_path / "votes.json"
    command = ["demo", "votes", "--output", str(tmp_path), "--report-only", "--json", str(json_file)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "votes.md").read_text() == (RESULTS / "votes.md").read_text()
    rows = json.loads(json_file.read_text())["rows"]
    assert {row["sigma"] for row in rows} >= {0.5}
    assert "<svg" in (tmp_path / "votes.svg").read_text()
