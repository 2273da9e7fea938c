import dataclasses
from typing import Any

import pytest
import torch

from smoothgate.certify.statement import Terms
from smoothgate.certify.stopping import StoppingRule
from smoothgate.sampling.certifier import SamplingResult
from smoothgate.sampling.result_cache import CachedResult, ResultCache, key_of
from smoothgate.sampling.ticket import SamplingTask

TERMS = Terms(sigma=0.1, alpha=0.001, eps=(0.05,))


def result(seed: int) -> CachedResult:
    rule = StoppingRule(TERMS, [0.9] * 10, 100)
    rule.update([0.9] * 100)
    return CachedResult(torch.ones(250), SamplingResult(rule, "budget", [0.9] * 10), seed)


TASK = SamplingTask(torch.zeros(3, 4, 4), TERMS, n_select=8, budget=64)


def test_the_same_picture_on_the_same_terms_has_the_same_key() -> None:
    same = SamplingTask(torch.zeros(3, 4, 4), dataclasses.replace(TERMS), n_select=8, budget=64)
    assert key_of("m", same) == key_of("m", TASK)


CHANGED_TERMS: list[tuple[str, Any]] = [
    ("sigma", 0.2),
    ("alpha", 0.002),
    ("eps", (0.05, 0.1)),
    ("cosine_threshold", 0.6),
    ("chance_cosine", 0.1),
]


@pytest.mark.parametrize(
    "changes",
    [
        {"x": torch.full((3, 4, 4), 1e-7)},
        {"x": torch.zeros(3, 2, 8)},
        {"layout": (1, 2)},
        {"n_select": 9},
        {"budget": 65},
        *({"terms": dataclasses.replace(TERMS, **{name: value})} for name, value in CHANGED_TERMS),
    ],
)
def test_a_change_of_the_task_changes_the_key(changes: dict[str, Any]) -> None:
    assert key_of("m", dataclasses.replace(TASK, **changes)) != key_of("m", TASK)


def test_another_encoder_changes_the_key() -> None:
    assert key_of("m", TASK) != key_of("n", TASK)


def test_the_least_recently_used_result_is_dropped_first() -> None:
    cache = ResultCache(2 * result(0).size)
    assert result(0).size == 250 * 4 + 10 * 32 + 100 * 8
    for seed in (1, 2):
        cache.put(("k", seed), result(seed))
    assert cache.get(("k", 1)) is not None
    cache.put(("k", 3), result(3))
    assert cache.get(("k", 2)) is None
    for seed in (1, 3):
        found = cache.get(("k", seed))
        assert found is not None
        assert found.seed == seed


def test_the_same_key_is_kept_once() -> None:
    cache = ResultCache(2 * result(0).size)
    for seed in (1, 2, 3):
        cache.put(("k",), result(seed))
    cache.put(("l",), result(4))
    found = cache.get(("k",))
    assert found is not None
    assert found.seed == 3


def test_a_result_larger_than_the_cache_is_not_kept() -> None:
    cache = ResultCache(100)
    cache.put(("k",), result(1))
    assert cache.get(("k",)) is None
