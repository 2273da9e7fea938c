"""PyRIT, unmodified, on the running service. Its figures are held to ours."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from smoothgate.bundled import DEMO
from tests.redteam.conftest import DIGIT, SCENES, Picture, run, told
from tests.whole_service import Gate

HERE = Path(__file__).parent

pytestmark = [pytest.mark.engine, pytest.mark.long]


def test_pyrit_counts_the_successes_that_we_count(
    gate: Gate, tool_python: Path, pictures: Sequence[Picture], scenes_file: Path, tmp_path: Path
) -> None:
    output = run([tool_python, HERE / "pyrit_attack.py", gate.url, DEMO.served_name, scenes_file], tmp_path)
    theirs = json.loads(output.splitlines()[-1])
    ours = [told(gate, DIGIT.phrasings[0], picture) for picture in pictures]
    assert [each["answer"] for each in theirs] == ours
    hits = [answer == picture.wanted for answer, picture in zip(ours, pictures, strict=True)]
    assert [each["success"] for each in theirs] == hits
    # The attack is one: it turns the undefended model.
    bare = [told(gate, DIGIT.phrasings[0], p, off=True) == p.wanted for p in pictures if p.attacked]
    assert sum(bare) > sum(hits)
    assert sum(bare) >= SCENES / 2
