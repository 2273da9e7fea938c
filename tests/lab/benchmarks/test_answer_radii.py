"""The tables of docs/answers.md and README.md hold what `smoothgate bench certify` prints."""

from pathlib import Path

import pytest

from smoothgate.certify.votes import VoteTerms, smallest_budget
from smoothgate_lab.benchmarks import answer_radii

ROOT = Path(__file__).parents[3]


def _cells(document: str, start: str) -> list[list[str]]:
    """The rows of the table of a document whose header starts so."""
    lines = [line.strip() for line in (ROOT / document).read_text().splitlines()]
    at = next(number for number, line in enumerate(lines) if line.startswith(start))
    rows = []
    for line in lines[at:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return [row for row in rows if set(row[0]) != {"-"}]


def test_samples_by_radius() -> None:
    rows = answer_radii.run()["samples"]
    radii, samples = _cells("docs/answers.md", "| radius / sigma |")
    assert radii[1:] == [f"{row['radius']:g}" for row in rows]
    assert samples[1:] == [f"{row['samples']:,}" for row in rows]
    # A certificate at R = sigma takes at most 64 samples, those that choose the answer included.
    assert rows[1]["radius"] == 1
    assert 16 + rows[1]["samples"] <= 64
    assert smallest_budget(VoteTerms(0.25, 0.001, 0.25), 16) == rows[1]["samples"], "sigma is only a unit"


@pytest.mark.parametrize("document", ["docs/answers.md", "README.md"])
def test_levels_by_resolution(document: str) -> None:
    rows = answer_radii.run()["levels"]
    header, *lines = _cells(document, "| canvas |")
    assert header[1:] == [f"{side} x {side}" for side in answer_radii.SIDES]
    assert [cell for line in lines for cell in line[1:]] == [f"{row['levels']:.2f}" for row in rows]
    assert [line[0] for line in lines] == [f"levels at {radius:g}" for radius in answer_radii.DISTANCES]
