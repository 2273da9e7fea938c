import math

import pytest

from smoothgate.certify.alpha import SHARES, TILTS, check_alpha, inner, per_cosine, per_image, per_tilt


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 1.5, math.nan, math.inf])
def test_alpha_outside_its_range_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha"):
        check_alpha(alpha)


def test_shares_never_add_up_to_more_than_the_whole() -> None:
    for alpha in (1e-6, 1e-3, 0.05, 0.3):
        for images in (1, 2, 3, 7):
            share = per_image(alpha, images)
            assert images * share <= alpha
            assert sum(per_tilt(share)) <= share
            assert images * sum(per_tilt(share)) > 0.999 * alpha


@pytest.mark.parametrize("cosines", [1, 5, 32])
def test_inner_product_and_angle_never_have_more_than_the_whole(cosines: int) -> None:
    for alpha in (1e-6, 1e-3, 0.3):
        together = sum(per_tilt(inner(alpha, cosines))) + cosines * per_cosine(alpha, cosines)
        assert 0.999 * alpha < together <= alpha


def test_without_an_angular_radius_the_inner_product_has_the_whole() -> None:
    assert inner(0.001, 0) == 0.001


def test_every_tilt_has_a_share_and_the_first_is_the_mean() -> None:
    assert len(TILTS) == len(SHARES)
    assert TILTS[0] == 0.0


def test_zero_images_are_refused() -> None:
    with pytest.raises(ValueError, match="images"):
        per_image(0.001, 0)
