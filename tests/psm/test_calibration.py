from pathlib import Path

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from smoothgate.errors import SmoothgateError
from smoothgate.psm.calibration import FILE, calibrate, robustness_scores


def _features(n: int = 40) -> torch.Tensor:
    common = 5 * torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0))
    return common + torch.randn(n, 4, 8, generator=torch.Generator().manual_seed(1))


def test_the_centre_takes_the_common_part_away() -> None:
    features = _features()
    raw = F.normalize(features.flatten(1), dim=1)
    assert float(raw[0] @ raw[1]) > 0.8
    result = calibrate(features.split(7), None, "digest")
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


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    result = calibrate([_features()], None, "digest")
    result.save(tmp_path)
    loaded = type(result).load(tmp_path)
    assert torch.equal(loaded.mu, result.mu)
    assert loaded.figures == result.figures
    assert loaded.digest == result.digest


def test_the_digest_follows_every_figure() -> None:
    features = _features()
    assert calibrate([features], None, "a").digest != calibrate([features], None, "b").digest
    assert calibrate([features], None, "a").digest != calibrate([features * 1.001], None, "a").digest


def test_too_few_images_are_refused() -> None:
    with pytest.raises(SmoothgateError, match="at least 8"):
        calibrate([_features(7)], None, "digest")


def test_a_missing_calibration_says_how_to_make_one(tmp_path: Path) -> None:
    from smoothgate.psm.calibration import Calibration

    with pytest.raises(SmoothgateError, match="smoothgate psm calibrate") as caught:
        Calibration.load(tmp_path)
    assert FILE in str(caught.value)


def test_the_score_is_taken_against_the_mean_direction_of_other_samples() -> None:
    """Features that are one of two orthogonal directions: t lies between them, and s = (1 + cos 45) / 2."""
    seen: list[torch.Tensor] = []

    def units(z: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        seen.append(z)
        assert sigma.tolist() == [0.5] * len(z)
        first = (torch.arange(len(z)) % 2 == 0).float()
        return torch.stack([first, 1 - first], 1)

    scores = robustness_scores(units, torch.full((2, 3, 16, 16), 0.5), [0.5], seed=1)
    assert scores == {"0.5": pytest.approx((1 + 0.5**0.5) / 2)}
    drawn = torch.cat(seen).flatten(1)
    assert len(torch.unique(drawn, dim=0)) == len(drawn) == 2 * (64 + 64)
    assert float((drawn - 0.5).std()) == pytest.approx(0.5, rel=0.02)
