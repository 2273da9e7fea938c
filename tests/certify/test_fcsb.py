import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from smoothgate.certify import fcsb
from smoothgate.certify.evidence import Evidence
from smoothgate.certify.layer_cake import Moments, choose_transforms

lowers = st.floats(0.01, 0.9999)
sigmas = st.floats(0.05, 2)
cosines = st.floats(-0.9, 0.99)


def moments(seed: int = 0, n: int = 1000) -> Moments:
    rng = np.random.default_rng(seed)
    evidence = Evidence(choose_transforms(rng.beta(30, 4, 64), n, 0.001))
    evidence.update(rng.beta(30, 4, n))
    return evidence.established.moments


@given(lower=lowers, eps=st.floats(0, 5), sigma=sigmas)
def test_mean_bound_is_the_theorem(lower: float, eps: float, sigma: float) -> None:
    exact = 2 * stats.norm.cdf(stats.norm.ppf(lower) - eps / sigma) - 1
    assert fcsb.mean_bound(lower, eps, sigma) == pytest.approx(exact, abs=1e-9)
    assert fcsb.mean_bound(lower, eps, sigma) <= exact


@given(lower=lowers, sigma=sigmas, eps=st.lists(st.floats(0, 5), min_size=2, max_size=2))
def test_mean_bound_falls_with_eps(lower: float, sigma: float, eps: list[float]) -> None:
    near, far = sorted(eps)
    assert fcsb.mean_bound(lower, far, sigma) <= fcsb.mean_bound(lower, near, sigma)


@given(lower=lowers, cosine=cosines, sigma=sigmas)
def test_mean_radius_inverts_the_mean_bound(lower: float, cosine: float, sigma: float) -> None:
    radius = fcsb.mean_radius(lower, cosine, sigma)
    if radius is None:
        assert fcsb.mean_bound(lower, 0.0, sigma) < cosine
    else:
        assert fcsb.mean_bound(lower, radius, sigma) >= cosine - 1e-11
        assert fcsb.mean_bound(lower, radius + 1e-6 * sigma, sigma) < cosine


@settings(max_examples=30)
@given(cosine=cosines, sigma=sigmas, seed=st.integers(0, 20))
def test_layer_cake_radius_inverts_the_layer_cake_bound(cosine: float, sigma: float, seed: int) -> None:
    known = moments(seed, 200)
    radius = fcsb.layer_cake_radius(known, cosine, sigma)
    if radius is None:
        assert fcsb.layer_cake_bound(known, 0.0, sigma) < cosine
    else:
        assert fcsb.layer_cake_bound(known, radius, sigma) >= cosine
        assert fcsb.layer_cake_bound(known, radius + 1e-5 * sigma, sigma) < cosine


def test_only_the_ratio_of_eps_and_sigma_counts() -> None:
    known = moments()
    for eps in (0.1, 0.5, 1.0):
        one, two = fcsb.point(known, eps, 0.5), fcsb.point(known, 2 * eps, 1.0)
        assert one.mean == pytest.approx(two.mean, abs=1e-9)
        assert one.layer_cake == pytest.approx(two.layer_cake, abs=1e-9)


def test_the_better_bound_is_served() -> None:
    assert fcsb.Point(0.1, 0.4, 0.5).value == 0.5
    assert fcsb.Point(0.1, 0.4, 0.5).served == "layer_cake"
    assert fcsb.Point(0.1, 0.5, 0.5).served == "mean"
    assert fcsb.Point(0.1, 0.6, 0.5).value == 0.6


def test_without_evidence_the_bound_is_minus_one() -> None:
    assert fcsb.mean_bound(0.0, 0.0, 1.0) == -1.0
    assert fcsb.mean_radius(0.0, 0.5, 1.0) is None
    nothing = Moments(choose_transforms([0.5], 10, 0.01), np.zeros(3))
    assert fcsb.layer_cake_bound(nothing, 0.5, 1.0) == -1.0
    assert fcsb.layer_cake_radius(nothing, 0.5, 1.0) is None


def test_the_radius_of_a_bound_at_the_threshold_is_zero_or_more() -> None:
    assert fcsb.mean_radius(0.75 + 1e-11, 0.5, 1.0) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_bad_sigma_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="sigma"):
        fcsb.mean_bound(0.9, 0.1, bad)
    with pytest.raises(ValueError, match="sigma"):
        fcsb.mean_radius(0.9, 0.5, bad)
    with pytest.raises(ValueError, match="sigma"):
        fcsb.layer_cake_radius(moments(n=20), 0.5, bad)


def test_bad_eps_and_cosines_are_refused() -> None:
    for eps in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="eps"):
            fcsb.check_eps(eps)
    for cosine in (1.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="cosine"):
            fcsb.mean_radius(0.9, cosine, 1.0)


def test_a_half_space_attains_the_mean_bound() -> None:
    """For S = 1[z_1 <= c] the shifted mean is exactly Phi(Phi^-1(s) - eps / sigma): no bound could be
    tighter.
    """
    sigma, c = 0.5, 0.7
    s = float(stats.norm.cdf(c / sigma))
    for eps in (0.1, 0.5, 1.0):
        shifted = float(stats.norm.cdf((c - eps) / sigma))
        assert fcsb.mean_bound(s, eps, sigma) == pytest.approx(2 * shifted - 1, abs=1e-9)
