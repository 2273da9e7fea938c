import dataclasses
import tracemalloc
from typing import Any

import pytest
import torch

from smoothgate.certify.statement import Terms
from smoothgate.certify.stopping import StoppingRule
from smoothgate.sampling.certifier import SamplingResult
from smoothgate.sampling.result_cache import CachedResult, ResultCache, key_of
from smoothgate.sampling.ticket import SamplingTask

TERMS = Terms(sigma=0.1, alpha=0.001, eps=(0.05,))


def result(terms: Terms = TERMS, n: int = 100) -> CachedResult:
    selection = [0.6 + 0.005 * number for number in range(64)]
    rule = StoppingRule(terms, selection, n)
    rule.update([0.9] * n)
    return CachedResult(torch.ones(250), SamplingResult(rule, "budget", selection))


TASK = SamplingTask(torch.zeros(3, 4, 4), TERMS, n_select=8, budget=64)


def test_the_same_noise_on_the_same_terms_has_the_same_key() -> None:
    same = SamplingTask(torch.zeros(3, 4, 4), dataclasses.replace(TERMS), n_select=8, budget=64)
    assert key_of("a", 1, same) == key_of("a", 1, TASK)


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
        {"n_select": 9},
        {"budget": 65},
        *({"terms": dataclasses.replace(TERMS, **{name: value})} for name, value in CHANGED_TERMS),
    ],
)
def test_a_change_of_the_terms_changes_the_key(changes: dict[str, Any]) -> None:
    assert key_of("a", 1, dataclasses.replace(TASK, **changes)) != key_of("a", 1, TASK)


def test_other_noise_and_another_client_change_the_key() -> None:
    assert len({key_of("a", 1, TASK), key_of("a", 2, TASK), key_of("b", 1, TASK)}) == 3


@pytest.mark.parametrize("n", [64, 2048])
@pytest.mark.parametrize("cosines", [(), (0.5,), (0.25, 0.5, 0.75)])
def test_the_size_is_what_a_result_takes(cosines: tuple[float, ...], n: int) -> None:
    """But for the direction: the memory of tensors is not traced."""
    terms = dataclasses.replace(TERMS, cosines=cosines)
    result(terms, n)
    tracemalloc.start()
    try:
        kept = [result(terms, n) for _ in range(40)]
        taken = tracemalloc.get_traced_memory()[0] / len(kept)
    finally:
        tracemalloc.stop()
    assert kept[0].size - kept[0].direction.nbytes == pytest.approx(taken, rel=0.25)


def test_the_least_recently_used_result_is_dropped_first() -> None:
    cache = ResultCache(2 * result().size)
    for number in (1, 2):
        cache.put(("k", number), result())
    assert cache.get(("k", 1)) is not None
    cache.put(("k", 3), result())
    assert cache.get(("k", 2)) is None
    assert cache.get(("k", 1)) is not None
    assert cache.get(("k", 3)) is not None


def test_the_same_key_is_kept_once() -> None:
    cache = ResultCache(2 * result().size)
    latest = result()
    for each in (result(), result(), latest):
        cache.put(("k",), each)
    cache.put(("l",), result())
    assert cache.get(("k",)) is latest


def test_a_result_larger_than_the_cache_is_not_kept() -> None:
    cache = ResultCache(100)
    cache.put(("k",), result())
    assert cache.get(("k",)) is None
