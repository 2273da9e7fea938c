"""The examples of docs/apis.md."""

import shutil
from pathlib import Path

import pytest

from tests.examples import run_examples
from tests.fake_vllm import TEXT
from tests.whole_service import SAMPLES, Gate


def test_the_examples_of_the_apis(quick_gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(SAMPLES / "seven.png", tmp_path)
    monkeypatch.chdir(tmp_path)
    _, printed = run_examples("apis.md", {"http://127.0.0.1:8000": quick_gate.url})
    response, message, embedding = printed
    assert response.startswith(TEXT)
    assert message == f"{TEXT} bounded"
    assert int(embedding.split()[0]) > 100
