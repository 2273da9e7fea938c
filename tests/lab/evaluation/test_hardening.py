"""Adversarial training of the tower, a few steps: it learns, and leaves the rest of the model alone."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from smoothgate.bundled import DEMO
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.vision import load
from smoothgate_lab.evaluation.hardening import Hardening, Method
from smoothgate_lab.training_loop import Schedule

UNTUNED = Path(__file__).parents[3] / "docs" / "results" / "untuned"


@pytest.mark.long
@pytest.mark.parametrize("method", ["tecoa", "fare"])
def test_a_tower_is_hardened_and_can_be_loaded(method: Method, tmp_path: Path) -> None:
    hardening = Hardening(method, 8 / 255, 1, DEMO.psm)
    before = hardening.loss(10_000)[1]["attacked"]
    hardening.run(tmp_path, Schedule(steps=6, muon_lr=0.002, adam_lr=3e-4, warmup=2))
    assert hardening.loss(10_000)[1]["attacked"] < before
    old = load_file(DEMO.model / "model.safetensors")
    new = load_file(tmp_path / "model" / "model.safetensors")
    assert set(old) == set(new)
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed
    assert all(name.startswith("vision_tower.") for name in changed)
    adapter = load(str(tmp_path / "model"), device="cpu", dtype=torch.float32)
    Hardening(method, 8 / 255, 1, UNTUNED).take(tmp_path / "tower.safetensors", tmp_path / "again")
    again = load(str(tmp_path / "again" / "model"), device="cpu", dtype=torch.float32)
    assert again.digest == adapter.digest
    for psm, folder in ((DEMO.psm, tmp_path / "psm"), (UNTUNED, tmp_path / "again" / "psm")):
        weights, given = load_file(folder / "psm.safetensors"), load_file(psm / "psm.safetensors")
        assert all(torch.equal(weights[name], given[name]) for name in given)
        assert UnitEncoder.load(adapter, folder).psm_digest is not None
