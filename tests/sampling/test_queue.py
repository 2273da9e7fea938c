"""Who is served next, without any device."""

import torch

from smoothgate.certify.statement import Terms
from smoothgate.sampling.job import Job
from smoothgate.sampling.queue import Queue, Slice

CPU = torch.device("cpu")
TERMS = Terms(sigma=0.1, alpha=0.001, eps=(0.05,))


def job(n_select: int = 8, budget: int = 64, size: int = 4, request: object = None) -> Job:
    x = torch.zeros(3, size, size)
    return Job(x, TERMS, seed=1, n_select=n_select, budget=budget, request=request)


def selected(n: int = 8, **options: int) -> Job:
    """One whose selection is over."""
    each = job(n_select=n, **options)
    each.packed = n
    each.direction.set_result(torch.ones(1))
    return each


def queue(*jobs: Job, batch_size: int = 32, workers: int = 1, smallest: int = 32) -> Queue:
    made = Queue(batch_size, workers, smallest, lambda samples: None)
    for each in jobs:
        made.put(each)
    return made


def take(made: Queue, device: torch.device = CPU) -> dict[Job, int]:
    batch = made.take(device, wait=False)
    assert batch is not None
    return {each.job: each.count for each in batch}


def test_a_batch_is_full_and_of_consecutive_samples() -> None:
    a, b = selected(budget=100), selected(budget=100)
    made = queue(a, b)
    for turn in range(3):
        batch = made.take(CPU, wait=False)
        assert batch == [Slice(a, 8 + 16 * turn, 16), Slice(b, 8 + 16 * turn, 16)]
    assert len(made) == 2 * (100 - 48)


def test_selection_goes_first() -> None:
    old, new = selected(budget=1000), job(n_select=24)
    assert take(queue(old, new)) == {new: 24, old: 8}


def test_nothing_is_certified_before_the_direction_is_known() -> None:
    each = job(n_select=8, budget=100)
    made = queue(each)
    assert take(made) == {each: 8}
    assert take(made) == {}
    each.direction.set_result(torch.ones(1))
    assert take(made) == {each: 32}


def test_certification_does_not_starve_while_selection_never_ends() -> None:
    old = selected(budget=1000)
    made = queue(old)
    served = []
    for _ in range(40):
        made.put(job(n_select=32))
        served.append(take(made).get(old, 0))
    assert all(sum(served[turn : turn + 4]) >= 8 for turn in range(36))


def test_a_newcomer_does_not_wait_for_what_others_have_had() -> None:
    old = selected(budget=10_000)
    made = queue(old)
    for _ in range(100):
        take(made)
    new = selected(budget=1000)
    made.put(new)
    counts = {old: 0, new: 0}
    for _ in range(20):
        for each, count in take(made).items():
            counts[each] += count
    assert counts[new] - counts[old] in (0, 16, 32)


def test_requests_share_equally_however_many_images_they_have() -> None:
    many = [selected(budget=1000, request=7) for _ in range(3)]  # type: ignore[arg-type]
    one = selected(budget=1000)
    made = queue(*many, one)
    counts = dict.fromkeys([*many, one], 0)
    for _ in range(30):
        for each, count in take(made).items():
            counts[each] += count
    assert counts[one] == sum(counts[each] for each in many)
    assert [counts[each] for each in many] == [480, 0, 0]  # its images one after the other


def test_canvases_of_different_sizes_batch_apart_and_take_turns() -> None:
    small, large = selected(budget=1000, size=4), selected(budget=1000, size=8)
    made = queue(small, large)
    turns = [take(made) for _ in range(6)]
    assert all(len(turn) == 1 for turn in turns)
    assert [sum(turn.get(each, 0) for turn in turns) for each in (small, large)] == [96, 96]


def test_a_small_request_is_spread_over_the_workers() -> None:
    each = job(n_select=32)
    made = queue(each, workers=2, smallest=8)
    assert [take(made)[each] for _ in range(2)] == [16, 8]
    assert take(made) == {each: 8}
    assert take(made) == {}


def test_selection_stays_on_the_device_where_it_began() -> None:
    each, other = job(n_select=64), torch.device("meta")
    made = queue(each, batch_size=32)
    assert take(made) == {each: 32}
    assert take(made, other) == {}
    assert take(made) == {each: 32}
    each.direction.set_result(torch.ones(1))
    assert take(made, other) == {each: 32}


def test_departed_jobs_are_dropped_and_counted() -> None:
    dropped: list[int] = []
    made = Queue(32, 1, 32, dropped.append)
    gone, stays = selected(budget=1000), selected(budget=1000)
    made.put(gone)
    made.put(stays)
    take(made)
    gone.cancel()
    assert take(made) == {stays: 32}
    assert dropped == [1000 - 16]
    assert len(made) == 1000 - 16 - 32


def test_a_closed_queue_gives_nothing() -> None:
    made = queue(selected())
    made.close()
    assert made.take(CPU, wait=True) is None
