"""`smoothgate bench answers --quick` in front of a fake vLLM: that it measures, not how fast anything is."""

import json
import os
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from smoothgate.cli.main import app
from smoothgate.gate.build import build
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.settings import Settings
from smoothgate_lab.benchmarks import served_demo
from tests.fake_vllm import FakeVllm
from tests.quick_gate import quick_smoother


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """What would be pinned to cores: nothing is."""
    cores: list[set[int]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda thread: {0, 1, 2})
    monkeypatch.setattr(os, "sched_setaffinity", lambda thread, chosen: cores.append(set(chosen)))
    return cores


def test_the_command_measures(
    vllm: FakeVllm,
    demo_encoder: UnitEncoder,
    pinned: list[set[int]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    vllm.lists = "yes"
    monkeypatch.setenv("SMOOTHGATE_ENGINE_URL", vllm.url)
    monkeypatch.setenv("SMOOTHGATE_CANARY_SECONDS", "0")
    load_smoother = quick_smoother(demo_encoder, Settings(_env_file=None))
    monkeypatch.setattr(served_demo, "build", partial(build, load_smoother=load_smoother))
    file = tmp_path / "out.json"
    result = CliRunner().invoke(app, ["bench", "answers", "--quick", "--samples", "96", "--json", str(file)])
    assert result.exit_code == 0, result.output
    figures = json.loads(file.read_text())
    assert figures["samples"] == 96
    rates = figures["samples_per_second"]
    assert figures["share"] == pytest.approx(rates["answered"] / min(rates["sampler"], rates["engine"]))
    assert figures["answer"]["samples"] <= 64, "where all agree"
    assert figures["answer"]["certified"] == 1
    assert figures["features"]["samples"] > 0
    # The engine's alone, and answered: once to warm up and once in a round. Then one picture.
    asked = sum(vllm.prompts) + len(vllm.bodies)
    assert asked >= 3 * 96 + figures["answer"]["samples"]
    assert {len(cores) for cores in pinned[:-1]} == {1}
    assert pinned[0].isdisjoint(pinned[1])
    assert pinned[-1] == {0, 1, 2}


def test_one_core_is_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda thread: {0})
    result = CliRunner().invoke(app, ["bench", "answers", "--quick"])
    assert result.exit_code == 1
    assert "two cores" in result.output
