import dataclasses

import pytest
import torch

from smoothgate.certify.statement import Terms
from smoothgate.certify.stopping import StoppingRule
from smoothgate.sampling.job import Evidence, Job
from smoothgate.sampling.result_cache import Result, ResultCache, key_of

TERMS = Terms(sigma=0.1, alpha=0.001, eps=(0.05,))


def result(seed: int) -> Result:
    rule = StoppingRule(TERMS, [0.9] * 10, 100)
    rule.update([0.9] * 100)
    return Result(torch.ones(250), Evidence(rule, "budget", [0.9] * 10), seed)


def job(**changes: object) -> Job:
    given: dict[str, object] = {"x": torch.zeros(3, 4, 4), "terms": TERMS, "n_select": 8, "budget": 64}
    x, terms = given.pop("x"), given.pop("terms")
    given |= changes
    return Job(
        given.pop("x", x),  # type: ignore[arg-type]
        given.pop("terms", terms),  # type: ignore[arg-type]
        seed=1,
        **given,  # type: ignore[arg-type]
    )


def test_the_same_picture_on_the_same_terms_has_the_same_key() -> None:
    assert key_of("m", job()) == key_of("m", job())
    assert key_of("m", job()) == key_of("m", Job(job().x, TERMS, seed=2, n_select=8, budget=64, deadline=9.0))


@pytest.mark.parametrize(
    "changes",
    [
        {"x": torch.full((3, 4, 4), 1e-7)},
        {"x": torch.zeros(3, 2, 8)},
        {"n_select": 9},
        {"budget": 65},
        *(
            {"terms": dataclasses.replace(TERMS, **{name: value})}
            for name, value in [
                ("sigma", 0.2),
                ("alpha", 0.002),
                ("eps", (0.05, 0.1)),
                ("cosine_threshold", 0.6),
                ("chance_cosine", 0.1),
            ]
        ),
    ],
)
def test_anything_else_has_another(changes: dict[str, object]) -> None:
    assert key_of("m", job()) != key_of("m", job(**changes))


def test_another_encoder_has_another_key() -> None:
    assert key_of("m", job()) != key_of("n", job())


def test_the_one_asked_for_longest_ago_makes_room() -> None:
    cache = ResultCache(2 * result(0).size)
    assert result(0).size == 250 * 4 + 110 * 32
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


def test_what_is_too_large_is_not_kept() -> None:
    cache = ResultCache(100)
    cache.put(("k",), result(1))
    assert cache.get(("k",)) is None
