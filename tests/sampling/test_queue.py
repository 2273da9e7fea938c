"""Which samples are drawn next, without any device."""

import threading
from collections.abc import Callable

import pytest
import torch

from smoothgate.certify.statement import Terms
from smoothgate.sampling.queue import Queue, SampleRange
from smoothgate.sampling.ticket import SamplingTask, Ticket

CPU = torch.device("cpu")
TERMS = Terms(sigma=0.1, alpha=0.001, eps=(0.05,))


def ticket(n_select: int = 8, budget: int = 64, size: int = 4, request: object = None) -> Ticket:
    return Ticket(SamplingTask(torch.zeros(3, size, size), TERMS, n_select, budget), 1, request=request)


def ignore(number: float) -> None:
    pass


def queue(
    *tickets: Ticket,
    batch_size: int = 32,
    workers: int = 1,
    smallest_share: int = 32,
    typical_values: int | None = None,
    begun: Callable[[float], None] = ignore,
    departed: Callable[[float], None] = ignore,
) -> Queue:
    made = Queue(
        batch_size, workers, smallest_share, typical_values=typical_values, begun=begun, departed=departed
    )
    for each in tickets:
        made.put(each)
    return made


def selected(*tickets: Ticket, **options: int) -> Queue:
    """A queue of tickets whose selection is over."""
    made = queue(*tickets, **options)  # type: ignore[arg-type]
    while take(made):
        pass
    for each in tickets:
        each.direction.set_result(torch.ones(1))
    return made


def take(made: Queue, device: torch.device = CPU) -> dict[Ticket, int]:
    batch = made.take(device, wait=False)
    assert batch is not None
    return {each.ticket: each.count for each in batch}


def test_a_batch_is_full_and_of_consecutive_samples() -> None:
    a, b = ticket(budget=100), ticket(budget=100)
    made = selected(a, b)
    for turn in range(3):
        batch = made.take(CPU, wait=False)
        assert batch == [SampleRange(a, 8 + 16 * turn, 16), SampleRange(b, 8 + 16 * turn, 16)]
    assert len(made) == 2 * (100 - 48)


def test_selection_goes_first() -> None:
    old, new = ticket(budget=1000), ticket(n_select=24)
    made = selected(old)
    made.put(new)
    assert take(made) == {new: 24, old: 8}


def test_nothing_is_certified_before_the_direction_is_known() -> None:
    each = ticket(n_select=8, budget=100)
    made = queue(each)
    assert take(made) == {each: 8}
    assert take(made) == {}
    each.direction.set_result(torch.ones(1))
    assert take(made) == {each: 32}


def test_certification_goes_on_while_new_selections_keep_coming() -> None:
    old = ticket(budget=1000)
    made = selected(old)
    served = []
    for _ in range(40):
        made.put(ticket(n_select=32))
        served.append(take(made).get(old, 0))
    assert all(sum(served[turn : turn + 4]) >= 8 for turn in range(36))


def test_a_newcomer_shares_equally_from_its_arrival_on() -> None:
    old = ticket(budget=10_000)
    made = selected(old)
    for _ in range(100):
        take(made)
    new = ticket(budget=1000)
    made.put(new)
    assert take(made)[new] == 8
    new.direction.set_result(torch.ones(1))
    counts = {old: 0, new: 0}
    for _ in range(20):
        for each, count in take(made).items():
            counts[each] += count
    assert abs(counts[new] - counts[old]) <= 32


def test_requests_share_equally_however_many_images_they_have() -> None:
    many = [ticket(budget=1000, request=7) for _ in range(3)]
    one = ticket(n_select=24, budget=1000)
    made = selected(*many, one)
    counts = dict.fromkeys([*many, one], 0)
    for _ in range(30):
        for each, count in take(made).items():
            counts[each] += count
    assert counts[one] == sum(counts[each] for each in many)
    assert [counts[each] for each in many] == [480, 0, 0]  # its images one after the other


def test_canvases_of_different_sizes_batch_apart_and_take_turns() -> None:
    small, large = ticket(budget=1000, size=4), ticket(budget=1000, size=8)
    made = selected(small, large)
    turns = [take(made) for _ in range(6)]
    assert all(len(turn) == 1 for turn in turns)
    assert [sum(turn.get(each, 0) for turn in turns) for each in (small, large)] == [96, 96]


@pytest.mark.parametrize(("size", "count"), [(2, 32), (4, 32), (8, 8), (16, 2), (64, 1)])
def test_a_batch_of_larger_canvases_holds_fewer(size: int, count: int) -> None:
    each = ticket(n_select=64, size=size)
    assert take(queue(each, typical_values=3 * 4 * 4)) == {each: count}


def test_the_length_is_in_samples_and_the_work_in_canvases_of_typical_size() -> None:
    made = queue(ticket(8, 64, size=4), ticket(8, 64, size=8), typical_values=3 * 4 * 4)
    assert len(made) == 2 * 72
    assert made.work == 72 + 4 * 72


def test_requests_share_work_equally_whatever_the_size_of_their_canvases() -> None:
    small, large = ticket(budget=10_000, size=4), ticket(budget=10_000, size=8)
    made = selected(small, large, typical_values=3 * 4 * 4)
    work = {small: 0, large: 0}
    for _ in range(40):
        for each, count in take(made).items():
            work[each] += count * (4 if each is large else 1)
    assert work[small] == work[large]


def _seconds_to_finish(watched: list[Ticket], others: list[Ticket]) -> float:
    """When the last of the watched requests is drawn, on a device as fast as an H100 (docs/scaling.md).

    A batch takes time in proportion to its pixels.
    """
    typical, per_second = 3 * 4 * 4, 288.0
    made, drawn, now = queue(*watched, *others, typical_values=typical), dict[Ticket, int](), 0.0
    while any(drawn.get(each, 0) < each.task.samples for each in watched):
        batch = take(made)
        assert batch
        for each, count in batch.items():
            now += count * each.task.x.numel() / typical / per_second
            drawn[each] = drawn.get(each, 0) + count
            if drawn[each] == each.task.n_select:
                each.direction.set_result(torch.ones(1))
    return now


def test_a_picture_of_64_times_the_size_hardly_slows_others() -> None:
    """Four pictures of 448 x 448 next to one of 3584 x 3584, in canvases of 4 x 4 and 32 x 32."""

    def small() -> list[Ticket]:
        return [ticket(n_select=128, budget=1024, size=4) for _ in range(4)]

    def large() -> list[Ticket]:
        return [ticket(n_select=128, budget=1024, size=32)]

    alone = _seconds_to_finish(small(), [])
    assert alone == pytest.approx(16, abs=0.1)
    assert _seconds_to_finish(small(), large()) <= 1.5 * alone


def test_a_small_request_is_spread_over_the_workers() -> None:
    each = ticket(n_select=32)
    made = queue(each, workers=2, smallest_share=8)
    assert [take(made)[each] for _ in range(2)] == [16, 8]
    assert take(made) == {each: 8}
    assert take(made) == {}


def test_selection_stays_on_the_device_where_it_began() -> None:
    each, other = ticket(n_select=64), torch.device("meta")
    made = queue(each, batch_size=32)
    assert take(made) == {each: 32}
    assert take(made, other) == {}
    assert take(made) == {each: 32}
    each.direction.set_result(torch.ones(1))
    assert take(made, other) == {each: 32}


def test_the_wait_for_the_first_sample_is_told_once() -> None:
    waits: list[float] = []
    each = ticket(n_select=64)
    made = queue(each, begun=waits.append)
    assert waits == []
    take(made)
    take(made)
    assert len(waits) == 1
    assert 0 <= waits[0] < 60


def test_tickets_of_departed_clients_are_dropped_and_counted() -> None:
    dropped: list[float] = []
    gone, stays = ticket(budget=1000), ticket(budget=1000)
    made = queue(gone, stays, departed=dropped.append)
    assert take(made) == {gone: 8, stays: 8}
    for each in (gone, stays):
        each.direction.set_result(torch.ones(1))
    assert take(made) == {gone: 16, stays: 16}
    gone.cancel()
    assert take(made) == {stays: 32}
    assert dropped == [1000 - 16]
    assert len(made) == 1000 - 16 - 32


def test_what_is_dropped_is_counted_in_work() -> None:
    dropped: list[float] = []
    gone = ticket(n_select=4, budget=60, size=8)
    made = queue(gone, departed=dropped.append, typical_values=3 * 4 * 4)
    gone.cancel()
    assert take(made) == {}
    assert dropped == [64 * 4]


def test_a_closed_queue_returns_none() -> None:
    made = queue(ticket())
    made.close()
    assert made.take(CPU, wait=True) is None


def test_nobody_waits_at_the_queue_for_the_mathematics_of_a_ticket() -> None:
    """The event loop puts tickets in and asks for the length; a thread may be at a look for long."""
    busy = Ticket(SamplingTask(torch.zeros(3, 4, 4), TERMS, 8, 64), 1, deadline=0.0)
    made = queue(busy)
    computing, done = threading.Event(), threading.Event()

    def compute() -> None:
        with busy._lock:
            computing.set()
            done.wait(10)

    thread = threading.Thread(target=compute)
    thread.start()
    assert computing.wait(10)
    taking = threading.Thread(target=take, args=(made,))
    taking.start()
    taking.join(2)
    free = not taking.is_alive()
    done.set()
    thread.join()
    taking.join()
    assert free
