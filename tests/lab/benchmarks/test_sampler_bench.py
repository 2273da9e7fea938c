"""`smoothgate bench sampler --quick`: that it measures, not how fast anything is."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from smoothgate.cli.main import app
from smoothgate.sampling.autotune import Tuning
from smoothgate_lab.benchmarks import sampler_bench


@pytest.mark.long
def test_the_command_measures_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler_bench, "autotune", lambda *_: Tuning(1, 1, 32, 100.0))
    monkeypatch.setattr(sampler_bench, "memory", lambda large: {"small": 1.0, "large": large, "ratio": large})
    files = ["--json", str(tmp_path / "out.json"), "--plot", str(tmp_path / "out.svg")]
    result = CliRunner().invoke(app, ["bench", "sampler", "--quick", *files])
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "out.json").read_text())
    assert figures["throughput"]["sampler_to"]["sampler"] == 1
    assert all(rate > 0 for rate in figures["throughput"]["samples_per_second"].values())
    assert figures["throughput"]["sampler_to"]["a loop over single samples"] > 1
    assert figures["latency"]["ratio"] == pytest.approx(
        figures["latency"]["beside"] / figures["latency"]["alone"]
    )
    assert figures["memory"]["ratio"] == sampler_bench.QUICK.large
    assert 0 < figures["early_stop"]["share_drawn"] <= 1
    assert {len(rows) for rows in figures["growth"].values()} == {2}
    assert "<svg" in (tmp_path / "out.svg").read_text()


@pytest.mark.long
def test_new_processes_say_what_memory_they_took() -> None:
    assert 0.5 < sampler_bench.memory(256)["ratio"] < 1.5
