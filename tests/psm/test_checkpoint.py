import json
from pathlib import Path

import pytest
import torch

from smoothgate.errors import SmoothgateError
from smoothgate.psm.calibration import Calibration, calibrate
from smoothgate.psm.checkpoint import CONFIG_FILE, PSM, WEIGHTS_FILE, Identity
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.vision import VisionAdapter, load
from tests import checkpoints, psms


def test_a_saved_psm_loads_in_half_precision(tmp_path: Path) -> None:
    psm = psms.build()
    psm.save(tmp_path)
    loaded = PSM.load(tmp_path)
    assert loaded.digest == psm.digest
    assert loaded.model_digest == "m"
    assert loaded.training_facts == {"seed": 0}
    z, sigma = torch.rand(2, 3, 32, 32), torch.tensor([0.2, 0.7])
    torch.testing.assert_close(loaded.purifier(z, sigma), psm.purifier(z, sigma), atol=2e-2, rtol=0)
    again = PSM.load(tmp_path)
    assert torch.equal(loaded.purifier(z, sigma), again.purifier(z, sigma))


def test_another_user_may_read_a_saved_psm(tmp_path: Path) -> None:
    """One user trains it, or puts it into an image, and the service runs as another."""
    psms.build().save(tmp_path)
    assert (tmp_path / WEIGHTS_FILE).stat().st_mode & 0o044 == 0o044


def test_an_empty_folder_gives_the_identity(tmp_path: Path) -> None:
    psm = PSM.load(tmp_path)
    assert psm.is_identity
    z = torch.rand(1, 3, 8, 8)
    assert psm.purifier(z, torch.ones(1)) is z


@pytest.mark.parametrize("purifier", [True, False])
def test_either_network_may_be_the_identity(tmp_path: Path, purifier: bool) -> None:
    whole = psms.build()
    half = PSM(whole.purifier if purifier else None, None if purifier else whole.mapper, model_digest="m")
    half.save(tmp_path)
    loaded = PSM.load(tmp_path)
    assert isinstance(loaded.purifier, Identity) != purifier
    assert isinstance(loaded.mapper, Identity) == purifier
    assert not loaded.is_identity


def test_the_digest_covers_weights_and_model_but_not_the_training() -> None:
    psm = psms.build()
    assert psms.build().digest == psm.digest
    assert psms.build(seed=1).digest != psm.digest
    assert psms.build(model_digest="other").digest != psm.digest
    psm.training_facts = {"seed": 99}
    assert psms.build().digest == psm.digest


def _damage_weights(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS_FILE).read_bytes())
    data[-10] ^= 1
    (folder / WEIGHTS_FILE).write_bytes(data)


def _edit(folder: Path, **changes: object) -> None:
    path = folder / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_damage_weights, "do not match its digest"),
        (lambda folder: (folder / WEIGHTS_FILE).unlink(), "cannot be used"),
        (lambda folder: (folder / CONFIG_FILE).write_text("{"), "cannot be used"),
        (lambda folder: _edit(folder, version=99), "version 99"),
        (lambda folder: _edit(folder, purifier={"kind": "magic"}), "magic"),
        (lambda folder: _edit(folder, mapper={"kind": "identity"}), "cannot be used"),
        (lambda folder: _edit(folder, model_digest="another"), "do not match its digest"),
    ],
)
def test_a_damaged_psm_is_refused_with_the_reason(tmp_path: Path, damage, reason: str) -> None:  # type: ignore[no-untyped-def]
    psms.build().save(tmp_path)
    damage(tmp_path)
    with pytest.raises(SmoothgateError, match=reason) as caught:
        PSM.load(tmp_path)
    assert caught.value.code == "unusable_psm"


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> VisionAdapter:
    path = checkpoints.build(tmp_path_factory.mktemp("tiny"))
    return load(str(path), device="cpu", dtype=torch.float32)


@torch.no_grad()
def _calibration(adapter: VisionAdapter) -> Calibration:
    assert adapter.canvas_shape is not None
    return calibrate([adapter.tokens(torch.rand(32, *adapter.canvas_shape))], None, adapter.digest)


def test_the_encoder_applies_purifier_and_mapper(adapter: VisionAdapter) -> None:
    psm, calibration = psms.build(adapter.digest), _calibration(adapter)
    assert adapter.canvas_shape is not None
    z, sigma = torch.rand(3, *adapter.canvas_shape), torch.tensor([0.1, 0.4, 0.8])
    with torch.no_grad():
        found = UnitEncoder(adapter, calibration, psm).units(z, sigma)
        tokens = psm.mapper(adapter.tokens(psm.purifier(z, sigma)).float(), sigma)
    centred = (tokens - calibration.mu).flatten(1)
    torch.testing.assert_close(found, centred / centred.norm(dim=1, keepdim=True))


def test_a_psm_of_another_model_is_refused(adapter: VisionAdapter) -> None:
    with pytest.raises(SmoothgateError) as caught:
        UnitEncoder(adapter, _calibration(adapter), psms.build("another"))
    assert caught.value.code == "wrong_psm"


def test_the_digest_of_the_encoder_covers_the_psm(adapter: VisionAdapter) -> None:
    calibration = _calibration(adapter)
    plain = UnitEncoder(adapter, calibration)
    first, second = (UnitEncoder(adapter, calibration, psms.build(adapter.digest, seed)) for seed in (0, 1))
    assert plain.psm_digest is None
    assert len({plain.digest, first.digest, second.digest}) == 3


def test_a_calibration_scored_with_another_psm_is_refused(adapter: VisionAdapter, tmp_path: Path) -> None:
    psms.build(adapter.digest).save(tmp_path)
    calibration = _calibration(adapter)
    calibration.save(tmp_path)
    digest = UnitEncoder.load(adapter, tmp_path).psm_digest
    calibration.with_smoothed({"0.5": 0.9}, {}, digest).save(tmp_path)
    assert UnitEncoder.load(adapter, tmp_path).calibration.figures.scores == {"0.5": 0.9}
    calibration.with_smoothed({"0.5": 0.9}, {}, "another").save(tmp_path)
    with pytest.raises(SmoothgateError, match="psm calibrate") as caught:
        UnitEncoder.load(adapter, tmp_path)
    assert caught.value.code == "wrong_calibration"
