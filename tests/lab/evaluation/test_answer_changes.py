"""How often answers changed, by cosine: counted right, and published as the command prints it."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from smoothgate.cli.main import app
from smoothgate.errors import SmoothgateError
from smoothgate_lab.evaluation.answer_changes import answer_changes

DOCS = Path(__file__).parents[3] / "docs"


def _line(
    index: int, cosine: float, digit: str, attack: str = "PGD", setting: str = "adaptive"
) -> dict[str, Any]:
    return {
        "defence": "d",
        "attack": attack,
        "setting": setting,
        "index": index,
        "cosine": cosine,
        "given": {"digit": digit},
    }


def test_an_answer_is_held_against_that_of_the_same_clean_picture() -> None:
    clean = [_line(0, 1.0, "3", "clean", "clean"), _line(1, 1.0, "4", "clean", "clean")]
    attacked = [
        _line(0, 0.85, "3"),
        _line(1, 0.8, "3"),
        _line(0, 0.9, "4"),
        _line(1, 1.0000001, "4"),
        _line(1, 0.85, "9", setting="transferred"),
    ]
    changes = {name: share["digit"] for name, share in answer_changes([*clean, *attacked], "d").items()}
    counts = {name: (share.k, share.n) for name, share in changes.items() if share is not None}
    assert counts == {"0.8 to 0.9": (1, 2), "0.9 to 0.95": (1, 1), "0.99 to 1": (0, 1)}


def test_a_defence_that_was_not_attacked_is_named() -> None:
    with pytest.raises(SmoothgateError, match="other"):
        answer_changes([_line(0, 0.5, "3")], "other")


def test_what_is_published_is_what_the_command_prints_from_the_stored_results() -> None:
    names = ["--defence", "FS + PSM, fine-tuned", "--defence", "FS + PSM"]
    result = CliRunner().invoke(
        app, ["demo", "answer-changes", str(DOCS / "results/results.jsonl.gz"), *names]
    )
    assert result.exit_code == 0
    published = (DOCS / "results" / "answer-changes.md").read_text()
    assert result.stdout == published
    # A reader must not take a cosine for a guarantee: 30 % of the digits changed at cosines of 0.8 to 0.9.
    assert "| 0.8 to 0.9 | 122 | 30.3% " in published
    assert "not certified" in published
    quoted = [
        line for line in (DOCS / "certificates.md").read_text().splitlines() if line.startswith("| 0.8 to")
    ]
    (cells,) = [line.strip("| ").split(" | ") for line in quoted]
    (row,) = [
        line.strip("| ").split(" | ")
        for line in published.splitlines()
        if line.startswith("| 0.8 to 0.9 | 122")
    ]
    assert cells == [row[0], row[1], row[2], row[-1]]
