import dataclasses
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from smoothgate.certify.statement import (
    CURVE_POINTS,
    BudgetTooSmall,
    Statement,
    Target,
    Terms,
    certify,
    require_reachable,
)


def terms(**changes: Any) -> Terms:
    return dataclasses.replace(
        Terms(sigma=0.5, alpha=0.001, eps=(0.25, 0.5, 1.0), chance_cosine=0.1), **changes
    )


def made(shape: tuple[float, float] = (194, 6), n: int = 1000, **changes: Any) -> Statement:
    rng = np.random.default_rng(0)
    return certify(terms(**changes), rng.beta(*shape, 64), rng.beta(*shape, n))


def test_the_fields_of_a_statement_are_consistent() -> None:
    statement = made()
    assert statement.n_certify == 1000
    assert statement.score_lower < statement.score_estimate
    assert [point.eps for point in statement.points] == [0.25, 0.5, 1.0]
    values = [point.value for point in statement.points]
    assert values == sorted(values, reverse=True)
    assert statement.radius_layer_cake is not None
    assert statement.radius_mean is not None
    assert statement.radius == statement.radius_layer_cake > statement.radius_mean
    assert statement.served == "layer_cake"
    assert statement.outcome == "bounded"
    assert statement.target_bound is None


def test_the_curve_goes_from_eps_0_to_where_the_bound_reaches_0() -> None:
    curve = made().curve
    assert len(curve) == CURVE_POINTS
    assert curve[0].eps == 0.0
    assert curve[-1].value == pytest.approx(0.0, abs=1e-6)
    values = [point.value for point in curve]
    assert all(later <= earlier + 1e-6 for earlier, later in pairwise(values))


def test_more_samples_certify_more() -> None:
    bounds = [made(n=n).points[1].value for n in (64, 256, 1024, 4096)]
    assert bounds == sorted(bounds)


@pytest.mark.parametrize(
    ("shape", "changes", "outcome"),
    [
        ((194, 6), {}, "bounded"),
        ((194, 6), {"target": Target(0.7, 0.5)}, "certified"),
        ((194, 6), {"target": Target(0.95, 0.5)}, "abstained"),
        ((5, 5), {}, "vacuous"),
        ((5, 5), {"target": Target(0.7, 0.5)}, "vacuous"),
        ((194, 6), {"chance_cosine": 0.95}, "vacuous"),
        ((194, 6), {"eps": (3.0,)}, "vacuous"),
        ((194, 6), {"chance_cosine": None}, "vacuous"),
        ((194, 6), {"chance_cosine": None, "target": Target(0.7, 0.5)}, "vacuous"),
    ],
)
def test_outcome(shape: tuple[float, float], changes: dict[str, Any], outcome: str) -> None:
    statement = made(shape, **changes)
    assert statement.outcome == outcome
    assert (statement.vacuous_because is not None) == (outcome == "vacuous")


def test_the_bound_at_the_target_is_stated() -> None:
    statement = made(target=Target(0.7, 0.5))
    assert statement.target_bound == statement.points[1].value


def test_a_threshold_out_of_reach_has_no_radius() -> None:
    statement = made((5, 5))
    assert statement.radius is None
    assert statement.radius_mean is None
    assert len(statement.curve) == 1 or statement.curve[-1].eps > 0


def test_the_order_and_number_of_eps_do_not_change_the_bound() -> None:
    alone = made(eps=(0.5,)).points[0]
    assert alone == made().points[1]


def test_bad_terms_are_refused() -> None:
    for changes, name in (
        ({"sigma": 0.0}, "sigma"),
        ({"sigma": math.nan}, "sigma"),
        ({"alpha": 1.0}, "alpha"),
        ({"eps": ()}, "eps"),
        ({"eps": (0.0,)}, "eps"),
        ({"eps": (0.5, 0.25)}, "eps"),
        ({"eps": (0.5, 0.5)}, "eps"),
        ({"eps": (0.5, math.nan)}, "eps"),
        ({"eps": (math.inf,)}, "eps"),
        ({"cosine_threshold": 1.0}, "cosine"),
        ({"chance_cosine": math.nan}, "cosine"),
    ):
        with pytest.raises(ValueError, match=name):
            terms(**changes)
    with pytest.raises(ValueError, match="cosine"):
        Target(1.0, 0.5)
    with pytest.raises(ValueError, match="eps"):
        Target(0.5, -1.0)


def test_bad_scores_are_refused() -> None:
    for selection, certification in (([0.5], [math.nan]), ([math.nan], [0.5]), ([0.5], [1.1]), ([0.5], [])):
        with pytest.raises(ValueError, match="score"):
            certify(terms(), selection, certification)


@pytest.mark.parametrize("target", [None, Target(0.9, 0.5), Target(0.5, 1.0), Target(0.99, 0.1)])
def test_a_budget_that_is_too_small_is_refused_with_the_smallest_that_is_not(target: Target | None) -> None:
    asked = terms(target=target)
    with pytest.raises(BudgetTooSmall) as caught:
        require_reachable(asked, 2)
    least = caught.value.smallest
    assert least is not None
    assert str(caught.value).endswith(f"the smallest number that could is {least}")
    require_reachable(asked, least)
    with pytest.raises(BudgetTooSmall):
        require_reachable(asked, least - 1)
    # The number is true: perfect scores reach the goal with it, and not with one less.
    perfect = certify(asked, np.ones(64), np.ones(least))
    reached = "bounded" if target is None else "certified"
    assert perfect.outcome == reached
    assert certify(asked, np.ones(64), np.ones(least - 1)).outcome != reached


def test_a_goal_that_no_budget_reaches_has_no_smallest_budget() -> None:
    with pytest.raises(BudgetTooSmall, match="too many times sigma") as caught:
        require_reachable(terms(target=Target(0.9, 20.0)), 1000)
    assert caught.value.smallest is None
