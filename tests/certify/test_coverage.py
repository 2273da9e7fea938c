"""Bounds hold as often as they state, in thousands of simulated runs on laws whose truth is known.

A bound passes if the runs in which it exceeds the truth are no more than chance allows at its alpha. With
fixed seeds the probability of a false alarm is 1 in 10,000. alpha is large here, so that a wrong bound fails
often enough to be noticed. The last tests apply the same measure to bounds that are wrong on purpose.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from smoothgate.certify.betting import Bets, betting
from smoothgate.certify.evidence import Evidence
from smoothgate.certify.layer_cake import choose_transforms
from smoothgate.certify.statement import Target, Terms
from smoothgate.certify.stopping import StoppingRule
from smoothgate_lab.benchmarks.comparison_bounds import clopper_pearson, empirical_bernstein, hoeffding

from .distributions import ALL, Array, Distribution, atoms, beta, mixture, most_failures

RUNS = 5000
ALPHA = 0.1
N = 40

everywhere = pytest.mark.parametrize("law", ALL, ids=lambda law: law.name)


def capital_passed(bets: Bets, values: Array, alpha: float, truth: float) -> bool:
    """Whether the bound may exceed the truth: the capital falls in the mean and is 1 / alpha at the bound."""
    return bool(bets.log_capital(truth, values)[0] >= -np.log(alpha))


@everywhere
def test_betting_bound_at_fixed_n(law: Distribution) -> None:
    rng = np.random.default_rng(1)
    samples = law.draw(rng, (RUNS, N))
    for bets in (Bets.spread(), Bets.chosen(law.draw(rng, (32,)), N, ALPHA)):
        failures = [capital_passed(bets, scores, ALPHA, law.mean) for scores in samples]
        assert sum(failures) <= most_failures(RUNS, ALPHA)
        for failed, scores in list(zip(failures, samples, strict=True))[:200]:
            assert failed or betting(scores, ALPHA, bets) <= law.mean


@everywhere
@pytest.mark.parametrize("bound", [hoeffding, empirical_bernstein])
def test_comparison_bounds_at_fixed_n(law: Distribution, bound: Callable[[Array, float], float]) -> None:
    samples = law.draw(np.random.default_rng(1), (RUNS, N))
    failures = sum(bound(scores, ALPHA) > law.mean for scores in samples)
    assert failures <= most_failures(RUNS, ALPHA)


@pytest.mark.parametrize("p", [0.02, 0.3, 0.8, 0.97, 0.999])
def test_clopper_pearson(p: float) -> None:
    counts = np.random.default_rng(1).binomial(N, p, RUNS)
    failures = sum(clopper_pearson(int(count), N, ALPHA) > p for count in counts)
    assert failures <= most_failures(RUNS, ALPHA)


def ever_exceeded(law: Distribution, bets: Bets, samples: Array) -> int:
    """Number of runs in which the bound exceeds the truth at any time. An adversary would stop at that time.

    The bound exceeds the truth exactly when the capital at the true mean passes 1 / alpha. That is computed
    for all times of all runs at once, and the bound is computed for a part of them.
    """
    paths = [
        np.log(weight) + np.log1p(fraction * (samples / law.mean - 1)).cumsum(axis=1)
        for fraction, weight in zip(bets.fractions, bets.weights, strict=True)
    ]
    capital = np.logaddexp.reduce(paths, axis=0)
    passed = capital >= -np.log(ALPHA) + 1e-6
    for run in range(0, len(samples), len(samples) // 20):
        times = np.flatnonzero(passed[run])
        seen = samples[run, : times[0] + 1] if times.size else samples[run]
        assert (betting(seen, ALPHA, bets) > law.mean) == bool(times.size)
    return int(passed.any(axis=1).sum())


@everywhere
def test_betting_bound_at_adversarial_stopping_times(law: Distribution) -> None:
    rng = np.random.default_rng(2)
    samples = law.draw(rng, (RUNS, 200))
    for bets in (Bets.spread(), Bets.chosen(law.draw(rng, (32,)), 100, ALPHA)):
        assert ever_exceeded(law, bets, samples) <= most_failures(RUNS, ALPHA)


@everywhere
def test_moments_of_the_layer_cake_bound(law: Distribution) -> None:
    """The bound can exceed the truth at some eps only if one of the moments does. Such runs are counted."""
    rng = np.random.default_rng(3)
    failures = 0
    for _ in range(20):
        transforms = choose_transforms(law.draw(rng, (24,)), N, ALPHA)
        truth = np.array([law.moment(t.thresholds, t.slopes) / t.scale for t in transforms])
        scores = law.draw(rng, (RUNS // 20, N))
        passed = [
            [capital_passed(t.bets, values, t.alpha, mean) for values in t.apply(scores)]
            for t, mean in zip(transforms, truth, strict=True)
        ]
        failures += int(np.any(passed, axis=0).sum())
    assert failures <= most_failures(RUNS, ALPHA)


def test_layer_cake_bound() -> None:
    law = mixture(beta(30, 3), atoms((0.05, 1.0)), 0.04)
    truth = law.layer_cake(0.8)
    rng = np.random.default_rng(4)
    failures = 0
    for _ in range(RUNS // 25):
        transforms = choose_transforms(law.draw(rng, (12,)), N, 0.5)
        for scores in law.draw(rng, (25, N)):
            evidence = Evidence(transforms)
            evidence.update(scores)
            failures += evidence.established.moments.expected_score(0.8) > truth
    assert failures <= most_failures(RUNS, 0.5)


def test_a_false_target_is_rarely_certified() -> None:
    """The target is just above the truth, so the rule is wrong whenever it says `certified`."""
    law = beta(14, 6)
    target = Target(2 * law.layer_cake(0.5) - 1 + 1e-3, 0.5)
    terms = Terms(sigma=1.0, alpha=0.5, eps=(0.5,), target=target)
    rng = np.random.default_rng(5)
    runs, wrong = 150, 0
    for _ in range(runs):
        rule = StoppingRule(terms, law.draw(rng, (24,)), 200)
        while rule.reason is None:
            rule.update(law.draw(rng, (min(25, rule.budget - rule.n),)))
        wrong += rule.reason == "certified"
    assert wrong <= most_failures(runs, 0.5)


# Bounds that are wrong on purpose fail the same measure.


def test_hoeffding_read_sequentially_is_caught() -> None:
    law = atoms((0.0, 0.5), (1.0, 0.5))
    samples = law.draw(np.random.default_rng(6), (1500, 3000))
    looks = np.unique(np.geomspace(2, 3000, 60).astype(int))
    failures = sum(any(hoeffding(scores[:n], ALPHA) > law.mean for n in looks) for scores in samples)
    assert failures > most_failures(len(samples), ALPHA)


def test_clopper_pearson_read_sequentially_is_caught() -> None:
    samples = np.random.default_rng(7).random((500, 300)) < 0.6
    failures = sum(
        any(clopper_pearson(int(hits), n, ALPHA) > 0.6 for n, hits in enumerate(run.cumsum(), start=1))
        for run in samples
    )
    assert failures > most_failures(len(samples), ALPHA)


@pytest.mark.parametrize("fresh", [True, False])
def test_scoring_the_samples_that_chose_t_is_caught(fresh: bool) -> None:
    """Features are uniform on a sphere, so every direction scores 1/2. Samples favour the one they chose."""
    rng = np.random.default_rng(8)
    runs, failures = 2000, 0
    for _ in range(runs):
        units = rng.normal(size=(2 * N, 20))
        units /= np.linalg.norm(units, axis=1, keepdims=True)
        t = units[:N].sum(axis=0)
        t /= np.linalg.norm(t)
        scores = (1 + (units[N:] if fresh else units[:N]) @ t) / 2
        failures += betting(scores, ALPHA) > 0.5
    assert (failures <= most_failures(runs, ALPHA)) == fresh


def test_alpha_spent_twice_is_caught() -> None:
    """Each of three bounds uses the whole alpha instead of a share. Independent scores make that visible."""
    law = atoms((0.0, 0.1), (1.0, 0.9))
    samples = law.draw(np.random.default_rng(9), (RUNS, 3, N))
    exceeded = [[clopper_pearson(int(s.sum()), N, ALPHA) > law.mean for s in run] for run in samples]
    assert np.any(exceeded, axis=1).sum() > most_failures(RUNS, ALPHA)
