import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F  # noqa: N812

from smoothgate.errors import SmoothgateError
from smoothgate.psm.calibration import FILE, calibrate


def _features(n: int = 40) -> torch.Tensor:
    common = 5 * torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0))
    return common + torch.randn(n, 4, 8, generator=torch.Generator().manual_seed(1))


def test_the_centre_removes_the_common_part() -> None:
    features = _features()
    raw = F.normalize(features.flatten(1), dim=1)
    assert float(raw[0] @ raw[1]) > 0.8
    result = calibrate(torch.split(features, 7), None, "digest")
    torch.testing.assert_close(result.mu, features.mean(0))
    assert abs(result.figures.chance_mean) < 0.1
    assert result.figures.chance_mean < result.figures.chance_p95 < 0.6
    assert result.figures.images == 40
    assert result.figures.rho == pytest.approx(32**0.5, rel=0.1)


def test_twins_give_the_flip_point() -> None:
    features = _features()
    same = calibrate([features], [features.clone()], "digest").figures
    assert same.twin_mean == pytest.approx(1, abs=1e-5)
    assert same.flip_point == pytest.approx(1, abs=1e-5)
    strangers = calibrate([features], [features.roll(1, 0)], "digest").figures
    assert strangers.flip_point == pytest.approx(0.5**0.5, abs=0.1)


def test_a_saved_calibration_is_read_back(tmp_path: Path) -> None:
    result = calibrate([_features()], None, "digest")
    result.save(tmp_path)
    loaded = type(result).load(tmp_path)
    assert torch.equal(loaded.mu, result.mu)
    assert loaded.figures == result.figures
    assert loaded.digest == result.digest


def test_another_user_may_read_a_saved_calibration(tmp_path: Path) -> None:
    calibrate([_features()], None, "digest").save(tmp_path)
    assert (tmp_path / FILE).stat().st_mode & 0o044 == 0o044


def test_the_digest_follows_every_figure() -> None:
    features = _features()
    assert calibrate([features], None, "a").digest != calibrate([features], None, "b").digest
    assert calibrate([features], None, "a").digest != calibrate([features * 1.001], None, "a").digest


def test_the_canarys_scores_are_kept_and_no_part_of_the_digest(tmp_path: Path) -> None:
    plain = calibrate([_features()], None, "digest").with_smoothed({"0.5": 0.9}, {}, None)
    scored = plain.with_smoothed({"0.5": 0.9}, {}, None, {"0.5": 0.8})
    scored.save(tmp_path)
    assert type(scored).load(tmp_path).figures.canary_scores == {"0.5": 0.8}
    assert scored.digest == plain.digest


def test_a_calibration_without_the_canarys_scores_is_read(tmp_path: Path) -> None:
    result = calibrate([_features()], None, "digest")
    figures = asdict(result.figures)
    del figures["canary_scores"]
    save_file({"mu": result.mu}, tmp_path / FILE, metadata={"version": "2", "figures": json.dumps(figures)})
    assert type(result).load(tmp_path).figures.canary_scores == {}


def test_too_few_images_are_refused() -> None:
    with pytest.raises(SmoothgateError, match="at least 8"):
        calibrate([_features(7)], None, "digest")


def test_a_missing_calibration_says_how_to_make_one(tmp_path: Path) -> None:
    from smoothgate.psm.calibration import Calibration

    with pytest.raises(SmoothgateError, match="smoothgate psm calibrate") as caught:
        Calibration.load(tmp_path)
    assert FILE in str(caught.value)
