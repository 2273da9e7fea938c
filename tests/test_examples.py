"""The scripts in `examples`, as a user runs them, against the service on the demo model and a real vLLM."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.whole_service import Gate

pytestmark = pytest.mark.engine

EXAMPLES = Path(__file__).parent.parent / "examples"
#: These leave connections open, which a test must not, so they run in a process of their own.
ALONE = {
    "langchain_client.py": "The digit is 7.\ncertified within l2 ",
    "litellm_client.py": "The digit is 7.\ncertified within l2 ",
}
HERE = {
    "openai_sdk.py": ["3 + 7 = 10.", "certified after ", "certified after "],
    "stream.py": ["The digit is 7.", "bounded: cosine 0.5 within l2 0."],
    "certified_answer.py": ["The digit is 7.", "certified within l2 0.", "refused: "],
}


def _run(name: str, *arguments: str) -> None:
    runpy.run_path(str(EXAMPLES / name))["main"](*arguments)


def _said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines that were printed, without the log of the service, which runs in this process."""
    said = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d .*\n", "", capsys.readouterr().out)
    return said.splitlines()


@pytest.mark.parametrize("name", HERE)
def test_an_example_says_what_it_promises(name: str, gate: Gate, capsys: pytest.CaptureFixture[str]) -> None:
    _run(name, gate.url)
    lines = _said(capsys)
    assert len(lines) == len(HERE[name])
    assert all(line.startswith(start) for line, start in zip(lines, HERE[name], strict=True)), lines


@pytest.mark.parametrize("name", ALONE)
def test_an_example_with_another_client_says_what_it_promises(name: str, gate: Gate) -> None:
    environment = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LANGSMITH_TRACING": "false"}
    command = [sys.executable, str(EXAMPLES / name), gate.url]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(ALONE[name])


def test_a_folder_is_certified_line_by_line(gate: Gate, capsys: pytest.CaptureFixture[str]) -> None:
    _run("certify_folder.py", gate.url)
    rows = [json.loads(line) for line in _said(capsys)]
    assert [row["picture"] for row in rows] == ["plain-five.png", "seven.png", "three.png", "two.png"]
    assert {row["outcome"] for row in rows} == {"bounded"}
    assert all(row["jws"] and row["upload_radius"] > row["radius"] > 0 for row in rows)


def test_answers_with_and_without_smoothing_are_compared(
    gate: Gate, capsys: pytest.CaptureFixture[str]
) -> None:
    _run("compare_answers.py", gate.url)
    *rows, last = _said(capsys)
    assert rows[1] == "seven.png: 'The digit is 7.' == 'The digit is 7.'"
    assert last == "4 of 4 answers are the same"


def test_a_saved_answer_is_verified_without_the_service(
    gate: Gate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer, keys = tmp_path / "answer.json", tmp_path / "keys.json"
    answer.write_text(gate.ask("What digit is shown?", "seven.png").text)
    keys.write_text(gate.http.get("/.well-known/jwks.json").text)
    _run("verify_offline.py", str(answer), str(keys))
    said = capsys.readouterr().out
    assert "ok   signature: made by a key of the set" in said
    assert "FAIL" not in said
    answer.write_text(answer.read_text().replace("The digit is 7.", "The digit is 3."))
    with pytest.raises(SystemExit):
        _run("verify_offline.py", str(answer), str(keys))
    assert "FAIL answer: another one than was signed" in capsys.readouterr().out


def test_every_example_is_listed_and_run() -> None:
    scripts = {path.name for path in EXAMPLES.glob("*.py")}
    assert scripts == {*HERE, *ALONE, "certify_folder.py", "compare_answers.py", "verify_offline.py"}
    listed = (EXAMPLES / "README.md").read_text()
    assert all(f"`{name}`" in listed for name in scripts)
