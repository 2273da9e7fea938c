"""The one table of what is bundled: the page has it, and each figure is that of its own measurement."""

from pathlib import Path

from typer.testing import CliRunner

from smoothgate.cli.main import app

DOCS = Path(__file__).parents[3] / "docs"


def test_the_page_has_the_table_that_the_command_prints(tmp_path: Path) -> None:
    command = ["demo", "summary", "--results", str(DOCS / "results"), "--plans", str(DOCS / "plans")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert result.stdout in (DOCS / "results.md").read_text()
    # As the tables of the measurements themselves have it.
    row = next(line for line in result.stdout.splitlines() if "adaptive, targeted 16/255" in line)
    _, share = row.split("|")[3:5]
    published = (DOCS / "results" / "table.md").read_text().splitlines()
    mine = [line for line in published if line.startswith("| FS + PSM, fine-tuned | l_inf 16/255 | 200 |")]
    assert any(share in line for line in mine)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    command = ["demo", "summary", "--results", str(tmp_path), "--plans", str(DOCS / "plans")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert "is missing" in result.output
