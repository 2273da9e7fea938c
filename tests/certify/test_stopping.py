import math

import numpy as np
import pytest

from smoothgate.certify.statement import Target, Terms, certify
from smoothgate.certify.stopping import FIRST_LOOK, StoppingRule


def terms(target: Target | None = None) -> Terms:
    return Terms(sigma=1.0, alpha=0.001, eps=(0.5, 1.0), target=target)


def drawn(shape: tuple[float, float], n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.beta(*shape, 64), rng.beta(*shape, n)


def run(rule: StoppingRule, scores: np.ndarray, batch: int) -> str | None:
    while rule.reason is None:
        rule.update(scores[rule.n : min(rule.n + batch, rule.budget)])
    return rule.reason


def test_it_stops_when_the_target_is_certified() -> None:
    selection, scores = drawn((194, 6), 8192)
    rule = StoppingRule(terms(Target(0.7, 1.0)), selection, 8192)
    assert run(rule, scores, 16) == "certified"
    assert rule.n < 1500
    statement = rule.statement()
    assert statement.n_certify == rule.n
    assert statement.target_bound is not None
    assert statement.target_bound >= 0.7
    assert statement.outcome == "certified"


def test_it_stops_when_perfect_scores_could_not_reach_the_target() -> None:
    selection, scores = drawn((5, 5), 2048)
    rule = StoppingRule(terms(Target(0.7, 1.0)), selection, 2048)
    assert run(rule, scores, 16) == "unreachable"
    assert rule.n < 2048
    assert rule.statement().outcome == "vacuous"
    rule.update(np.ones(2048 - rule.n))
    bound = rule.statement().target_bound
    assert bound is not None
    assert bound < 0.7


def test_it_stops_at_the_budget() -> None:
    selection, scores = drawn((194, 6), 1024)
    rule = StoppingRule(terms(Target(0.79, 1.0)), selection, 1024)
    assert rule.update(scores[:20]) is None
    assert rule.update(scores[20:]) == "budget"
    assert rule.n == 1024
    assert rule.statement().outcome == "abstained"


def test_a_target_met_with_the_last_sample_is_certified() -> None:
    selection, scores = drawn((194, 6), 700)
    rule = StoppingRule(terms(Target(0.7, 1.0)), selection, 700)
    rule.update(scores[:20])
    assert rule.update(scores[20:]) == "certified"


def test_without_a_target_the_budget_is_used_and_the_statement_is_that_of_fixed_n() -> None:
    selection, scores = drawn((194, 6), 512)
    rule = StoppingRule(terms(), selection, 512)
    assert rule.next_look == 512
    assert run(rule, scores, 37) == "budget"
    assert rule.statement() == certify(terms(), selection, scores)


def test_the_statement_does_not_depend_on_batches() -> None:
    selection, scores = drawn((194, 6), 500)
    statements = []
    for batch in (1, 13, 500):
        rule = StoppingRule(terms(Target(0.99, 1.0)), selection, 4000)
        for start in range(0, 500, batch):
            rule.update(scores[start : start + batch])
        statements.append(rule.statement())
    assert statements[0] == statements[1] == statements[2]


def test_a_target_does_not_change_the_bounds() -> None:
    selection, scores = drawn((194, 6), 512)
    rule = StoppingRule(terms(Target(0.99, 0.01)), selection, 512)
    for score in np.split(scores, 32):
        rule.update(score)
    assert rule.statement().points == certify(terms(), selection, scores).points


def test_the_numbers_of_samples_at_which_it_looks_grow_geometrically() -> None:
    selection, scores = drawn((194, 6), 4096)
    rule = StoppingRule(terms(Target(0.995, 0.001)), selection, 4096)
    looks = [rule.next_look]
    for score in scores:
        if rule.update([score]) is not None:
            break
        if rule.next_look != looks[-1]:
            looks.append(rule.next_look)
    assert looks[0] == FIRST_LOOK
    assert len(looks) < 60


def test_scores_after_the_reason_still_count_and_do_not_change_it() -> None:
    selection, scores = drawn((194, 6), 8192)
    rule = StoppingRule(terms(Target(0.7, 1.0)), selection, 8192)
    run(rule, scores, 64)
    before = rule.n
    assert rule.update(scores[before : before + 64]) == "certified"
    assert rule.statement().n_certify == before + 64


def test_bad_input_is_refused() -> None:
    rule = StoppingRule(terms(), [0.9], 10)
    with pytest.raises(ValueError, match="score"):
        rule.statement()
    with pytest.raises(ValueError, match="budget"):
        rule.update(np.full(11, 0.5))
    with pytest.raises(ValueError, match="score"):
        rule.update([math.nan])
    assert rule.n == 0
    with pytest.raises(ValueError, match="n_certify"):
        StoppingRule(terms(), [0.9], 0)
