from dataclasses import replace

import pytest

from smoothgate.certify.statement import BudgetTooSmall, Target, require_reachable
from smoothgate.errors import Unacceptable
from smoothgate.sampling.sampling_plan import Plan

PLAN = Plan(
    sigma=0.5,
    n_select=32,
    n_certify=1000,
    alpha=0.001,
    eps=(0.25, 0.5),
    cosine_threshold=0.5,
    target=Target(0.5, 0.75),
)


def test_terms_report_at_the_targets_eps_and_share_alpha_over_the_images() -> None:
    terms = PLAN.terms(images=2, chance_cosine=0.1)
    assert terms.eps == (0.25, 0.5, 0.75)
    assert 0.000499 < terms.alpha <= 0.0005
    assert terms.chance_cosine == 0.1


def test_a_budget_that_is_too_small_is_unacceptable_for_the_reason_of_the_mathematics() -> None:
    PLAN.require_reachable(1, 0.1)
    small = Plan(**{name: getattr(PLAN, name) for name in Plan.__slots__} | {"n_certify": 2})
    for _ in range(2):  # the second answer is remembered
        with pytest.raises(Unacceptable) as caught:
            small.require_reachable(1, 0.1)
        assert (caught.value.code, caught.value.param) == ("budget_too_small", "smoothing.n_certify")
        with pytest.raises(BudgetTooSmall) as reason:
            require_reachable(small.terms(1, 0.1), 2)
        assert caught.value.message == str(reason.value)


@pytest.mark.parametrize(("cosine", "chance"), [(0.5, 0.5), (0.3, 0.476), (-0.2, -0.5)])
def test_a_target_that_unrelated_images_meet_is_refused(cosine: float, chance: float) -> None:
    plan = replace(PLAN, target=Target(cosine, 0.1), n_certify=4096)
    with pytest.raises(Unacceptable, match=f"unrelated images reach {max(chance, 0):g}") as refused:
        plan.require_reachable(1, chance)
    assert (refused.value.code, refused.value.param) == ("target_below_chance", "smoothing.target.cosine")
    # Where chance was not measured, the certificate says so.
    plan.require_reachable(1, None)
