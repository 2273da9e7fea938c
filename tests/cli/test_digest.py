"""`smoothgate digest`: the digests that certificates of the same model and PSM carry."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from smoothgate.bundled import DEMO
from smoothgate.certify.signing import verify
from smoothgate.cli.main import app
from tests.whole_service import Gate

TUNED = Path(__file__).parent.parent.parent / "docs/results/tuned"


def printed(tmp_path: Path, *words: str) -> dict[str, Any]:
    """What the command writes, after a look at whether it prints the same."""
    file = tmp_path / "digests.json"
    ran = CliRunner().invoke(app, ["digest", *words, "--json", str(file)])
    assert ran.exit_code == 0, ran.output
    digests: dict[str, Any] = json.loads(file.read_text())
    assert dict(line.split() for line in ran.output.splitlines()) == digests
    return digests


def carried(gate: Gate) -> dict[str, Any]:
    """What the signed certificate of an answer carries."""
    answer = gate.ask("What digit is shown?", "seven.png", smoothing={"certify": "answer"}).json()
    keys = gate.http.get("/.well-known/jwks.json").json()
    model = verify(answer["answer_certificate"]["jws"], keys).model_dump()["model"]
    return {name: model[name] for name in ("digest", "psm_digest", "language_model_digest")}


def test_they_are_those_of_a_certificate(quick_gate: Gate, tmp_path: Path) -> None:
    named = ("--model", str(DEMO.model), "--psm", str(DEMO.psm))
    assert (
        printed(tmp_path)
        == printed(tmp_path, *named)
        == printed(tmp_path, "--model", "demo")
        == carried(quick_gate)
    )


def test_another_psm_has_others(quick_gate: Gate, tmp_path: Path) -> None:
    other = printed(tmp_path, "--psm", str(TUNED))
    own = carried(quick_gate)
    assert other["language_model_digest"] == own["language_model_digest"]
    assert other["digest"] != own["digest"]
    assert other["psm_digest"] != own["psm_digest"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--psm", "./nowhere"], "nowhere"),
        (["--model", "./nowhere"], "--model needs --psm"),
        (["--model", "./nowhere", "--psm", str(DEMO.psm)], "There is no folder ./nowhere"),
    ],
)
def test_what_is_not_there_is_named_in_one_line(words: list[str], said: str) -> None:
    ran = CliRunner().invoke(app, ["digest", *words])
    assert ran.exit_code == 1
    assert said in ran.stderr
    assert ran.stderr.count("\n") == 1
