"""`smoothgate bench device --small`: that it checks and measures, not how fast anything is."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from smoothgate.cli.main import app
from smoothgate.sampling.forward import Forward
from smoothgate_lab.benchmarks import device_bench
from smoothgate_lab.benchmarks.random_llava import Sizes, random_adapter, with_purifier

SMALL = ["bench", "device", "--small", "--device", "cpu"]


@pytest.mark.long
def test_the_command_checks_and_measures(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [*SMALL, "--json", str(tmp_path / "out.json")])
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "out.json").read_text())
    assert [row["passed"] for row in figures["checks"]] == [True] * 4
    compared = [row for row in figures["checks"] if row["difference"] is not None]
    assert len(compared) == 3
    assert all(row["difference"] <= row["tolerance"] == 1e-5 for row in compared)
    assert "at most 2 instead of 8" in figures["checks"][-1]["detail"]
    assert [row["purifier"] for row in figures["speed"]] == ["light", "diffusion"]
    for row in figures["speed"]:
        assert min(row["bare"], row["batches"], row["share"], row["seconds"]) > 0
        assert row["samples"] == 40


def test_a_check_that_fails_fails_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forward that depends on its batch, as after a copy that was read before it was there."""
    features = Forward.features

    def wrong(self: Forward, batch: list[object]) -> torch.Tensor:
        found = features(self, batch)  # type: ignore[arg-type]
        return found.roll(1, 0) if len(found) > 1 else found

    monkeypatch.setattr(Forward, "features", wrong)
    monkeypatch.setattr(device_bench, "_PURIFIERS", {})
    result = CliRunner().invoke(app, SMALL)
    assert result.exit_code == 1
    assert "FAILS" in result.output


@pytest.mark.long
@pytest.mark.parametrize("purifier", device_bench._PURIFIERS.values(), ids=device_bench._PURIFIERS)
def test_the_encoder_is_one_graph_with_either_purifier(purifier: Callable[[Sizes], nn.Module]) -> None:
    """On CUDA it is compiled; a break in the graph would cost what the compiler saves."""
    sizes = device_bench.SMALL.sizes
    encoder = with_purifier(random_adapter(sizes, torch.device("cpu"), torch.float32), purifier(sizes))
    compiled = torch.compile(encoder.units, backend="eager", fullgraph=True, dynamic=False)
    z, sigma = torch.rand(2, 3, sizes.side, sizes.side), torch.full((2,), 0.25)
    with torch.inference_mode():
        torch.testing.assert_close(compiled(z, sigma), encoder.units(z, sigma))
