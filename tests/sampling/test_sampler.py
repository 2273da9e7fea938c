import gc
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError

import numpy as np
import pytest
import torch
from prometheus_client import REGISTRY, CollectorRegistry, Counter, generate_latest
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from smoothgate import metrics
from smoothgate.certify.statement import Target, Terms
from smoothgate.errors import NotReady, SamplerFailed, Unacceptable
from smoothgate.sampling.draw import Units
from smoothgate.sampling.noise import GENERATOR, sample_number
from smoothgate.sampling.sampler import LOST_AFTER, Sampler, Worker
from smoothgate.sampling.ticket import SamplingTask, Ticket
from smoothgate.vision import Canvas, Layout
from tests import metric_lines
from tests.waiting import wait_until

CPU = torch.device("cpu")
SHAPE = (3, 4, 4)
MIX = torch.randn(48, 16, generator=torch.Generator().manual_seed(0))


def units(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
    """A cheap encoder with the right interface."""
    return F.normalize(z.flatten(1) @ MIX, dim=1)


def ticket(
    *,
    seed: int = 1,
    n_select: int = 16,
    budget: int = 64,
    sigma: float = 0.1,
    target: Target | None = None,
    shape: tuple[int, ...] = SHAPE,
    deadline: float | None = None,
) -> Ticket:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    terms = Terms(sigma=sigma, alpha=0.001, eps=(0.05,), target=target)
    return Ticket(SamplingTask(x, terms, n_select, budget), seed, deadline=deadline)


Run = Callable[..., Sampler]


@pytest.fixture
def own_threads() -> Callable[[], list[threading.Thread]]:
    """The sampler threads that this test has started. Services of other tests have some too."""
    before = set(threading.enumerate())
    return lambda: [
        thread for thread in {*threading.enumerate()} - before if thread.name.startswith("sampler-")
    ]


@pytest.fixture
def run() -> Iterator[Run]:
    started: list[Sampler] = []

    def begin(encoder: Units = units, batch_size: int = 10, threads: int = 1) -> Sampler:
        sampler = Sampler([Worker(encoder, CPU)] * threads, batch_size)
        sampler.start()
        started.append(sampler)
        return sampler

    yield begin
    for sampler in started:
        sampler.close()


def _one_by_one(each: Ticket) -> tuple[Tensor, list[float]]:
    """Direction and scores by the definition, a sample at a time."""
    task = each.task

    def unit(index: int) -> Tensor:
        z = torch.empty(1, *SHAPE)
        GENERATOR.fill(z, [(each.seed, sample_number(index, task.n_select))])
        sigma = torch.tensor([task.terms.sigma])
        return units(task.x + sigma * z, sigma)[0]

    t = F.normalize(sum((unit(i) for i in range(task.n_select)), torch.zeros(16)), dim=0)
    scores = [(1 + float(unit(task.n_select + i) @ t)) / 2 for i in range(task.budget)]
    return t, scores


@pytest.mark.parametrize("threads", [1, 3])
def test_mixed_batches_give_the_results_of_single_samples(run: Run, threads: int) -> None:
    def uneven(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        time.sleep(float(z.sum()) % 0.003)  # batches end in another order than they began in
        return units(z, sigma)

    sampler = run(uneven, threads=threads)
    tickets = [ticket(seed=1), ticket(seed=2, n_select=3, budget=100), ticket(seed=3, n_select=40, budget=7)]
    for each in tickets:
        sampler.submit(each)
    for each in tickets:
        t, scores = _one_by_one(each)
        torch.testing.assert_close(each.direction.result(10), t, atol=1e-5, rtol=0)
        result = each.result.result(10)
        assert result.reason == "budget"
        np.testing.assert_allclose(result.rule.scores, scores, atol=1e-5)


def test_each_sample_has_the_sigma_of_its_ticket(run: Run) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def recording(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        seen.append((z.clone(), sigma.clone()))
        return units(z, sigma)

    sampler = run(recording)
    tickets = [ticket(seed=seed, budget=200, sigma=sigma) for seed, sigma in ((1, 0.1), (2, 1.0), (3, 10.0))]
    for each in tickets:
        sampler.submit(each)
    for each in tickets:
        each.result.result(10)
    assert any(len(set(sigma.tolist())) > 1 for _, sigma in seen)
    z, sigma = torch.cat([z for z, _ in seen]), torch.cat([sigma for _, sigma in seen])
    for each in tickets:
        mine = z[sigma == each.task.terms.sigma]
        assert len(mine) == 216
        assert float((mine - each.task.x).std()) == pytest.approx(each.task.terms.sigma, rel=0.1)


def test_certification_samples_are_not_selection_samples(run: Run) -> None:
    seen: list[Tensor] = []

    def recording(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        seen.append(z.clone())
        return units(z, sigma)

    each = ticket(n_select=16, budget=64)
    run(recording).submit(each)
    each.result.result(10)
    rows = torch.cat(seen).flatten(1)
    assert len(rows) == 80
    assert len(torch.unique(rows, dim=0)) == 80


def test_a_small_ticket_does_not_wait_for_a_large_one(run: Run) -> None:
    def slow(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        time.sleep(0.002)
        return units(z, sigma)

    sampler = run(slow)
    large, small = ticket(seed=1, budget=4000), ticket(seed=2, budget=20)
    sampler.submit(large)
    sampler.submit(small)
    small.result.result(10)
    assert not large.result.done()
    large.cancel()


def test_sampling_stops_when_the_target_is_met(run: Run) -> None:
    each = ticket(sigma=0.05, budget=20_000, target=Target(cosine=0.5, eps=0.02))
    run().submit(each)
    result = each.result.result(20)
    assert result.reason == "certified"
    assert result.rule.n < 2000


def test_sampling_stops_at_the_deadline(run: Run) -> None:
    each = ticket(budget=1_000_000, deadline=time.monotonic() + 0.05)
    run().submit(each)
    result = each.result.result(10)
    assert result.reason == "deadline"
    assert 0 < result.rule.n < 1_000_000


def test_the_queue_is_measured_in_samples_and_in_seconds(run: Run) -> None:
    going = threading.Event()

    def waiting(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        going.wait(10)
        time.sleep(0.01)
        return units(z, sigma)

    sampler = run(waiting)
    assert (sampler.queued_samples, sampler.queued_seconds) == (0, 0)
    each = ticket(n_select=16, budget=2000)
    sampler.submit(each)
    for _ in range(100):
        if sampler.queued_samples == 2006:  # a batch of 10 is under way
            break
        time.sleep(0.01)
    assert sampler.queued_seconds == pytest.approx(2006 / sampler.work_per_second)
    going.set()
    each.result.result(20)
    assert sampler.queued_samples == 0
    assert 100 < sampler.work_per_second < 1000  # 100 to begin with; a batch of 10 takes 10 ms or more


def test_memory_does_not_grow_with_the_samples(run: Run) -> None:
    live: list[int] = []

    def watching(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        live.append(sum(each.nbytes for each in gc.get_objects() if _of_samples(each)))
        return units(z, sigma)

    sampler = run(watching, batch_size=100)
    peaks = []
    for n in (300, 3000):
        live.clear()
        each = ticket(budget=n)
        sampler.submit(each)
        each.result.result(60)
        peaks.append(max(live))
    # The unit features of the second ticket would be 192,000 bytes.
    assert peaks[1] - peaks[0] < 100_000


def _of_samples(each: object) -> bool:
    """Whether this is a batch of noisy pictures or of features: services of other tests hold tensors too."""
    return type(each) is Tensor and each.shape[1:] in (SHAPE, MIX.shape[1:])


def test_the_samples_of_a_departed_client_are_not_drawn(run: Run) -> None:
    drawn = 0

    def counting(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        nonlocal drawn
        drawn += len(z)
        time.sleep(0.001)
        return units(z, sigma)

    sampler = run(counting)
    gone = ticket(budget=100_000)
    sampler.submit(gone)
    gone.direction.result(10)
    gone.cancel()
    after = ticket(seed=2)
    sampler.submit(after)
    after.result.result(10)
    assert drawn < 10_000
    assert sampler.queued_samples == 0
    with pytest.raises(CancelledError):
        gone.result.result(1)


def test_a_failing_batch_fails_its_tickets_and_no_others(run: Run) -> None:
    broken = threading.Event()

    def fragile(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        if broken.is_set():
            raise RuntimeError("out of memory")
        return units(z, sigma)

    sampler = run(fragile)
    broken.set()
    first = ticket()
    sampler.submit(first)
    with pytest.raises(SamplerFailed):
        first.result.result(10)
    with pytest.raises(SamplerFailed):
        first.direction.result(10)
    broken.clear()
    second = ticket(seed=2)
    sampler.submit(second)
    assert second.result.result(10).reason == "budget"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_dead_thread_fails_its_tickets_and_can_be_started_again(
    run: Run, own_threads: Callable[[], list[threading.Thread]], threads: int
) -> None:
    deadly = threading.Event()
    deadly.set()

    def dies(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        if deadly.is_set():
            deadly.clear()
            raise KeyboardInterrupt
        return units(z, sigma)

    sampler = run(dies, threads=threads)
    first = own_threads()
    lost = ticket()
    sampler.submit(lost)
    with pytest.raises(SamplerFailed):
        lost.result.result(10)
    for _ in range(100):
        if not sampler.alive:
            break
        time.sleep(0.01)
    with pytest.raises(NotReady):
        sampler.submit(ticket())
    sampler.start()
    again = ticket()
    sampler.submit(again)
    assert again.result.result(10).reason == "budget"
    sampler.close()
    for thread in first:
        thread.join(10)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dying_thread_fails_tickets_it_has_taken_and_tickets_in_the_queue(
    run: Run, own_threads: Callable[[], list[threading.Thread]]
) -> None:
    certifying, going = threading.Event(), threading.Event()

    def dies_in_certification(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        if len(z) == 3:
            certifying.set()
            going.wait(10)
            raise KeyboardInterrupt
        return units(z, sigma)

    sampler = run(dies_in_certification)
    (thread,) = own_threads()
    taken, waiting = ticket(n_select=5, budget=3), ticket(seed=2)
    sampler.submit(taken)
    assert certifying.wait(10)  # this batch holds the rest of it
    sampler.submit(waiting)
    going.set()
    for each in (taken, waiting):
        with pytest.raises(SamplerFailed):
            each.result.result(10)
    thread.join(10)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dying_thread_fails_its_tickets_that_have_left_the_queue(
    run: Run, own_threads: Callable[[], list[threading.Thread]]
) -> None:
    certifying, swept = threading.Event(), threading.Event()

    def encoder(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        if z.shape[2:] != SHAPE[1:]:
            swept.set()
        elif len(z) == 3:
            certifying.set()
            swept.wait(10)
            raise KeyboardInterrupt
        return F.normalize(z.flatten(1), dim=1)

    sampler = run(encoder, threads=2)
    threads = own_threads()
    taken, later = ticket(n_select=5, budget=3), ticket(seed=2, shape=(3, 8, 2))
    sampler.submit(taken)
    assert certifying.wait(10)
    sampler.submit(later)  # the other thread takes of it, and the queue drops what is drawn whole
    with pytest.raises(SamplerFailed):
        taken.result.result(10)
    sampler.close()
    for thread in threads:
        thread.join(10)


def test_threads_warm_up_before_they_take_a_batch() -> None:
    """Compiling takes a minute on a GPU: no client waits for it."""
    going = threading.Event()
    batches: list[int] = []

    def slow_at_first(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        batches.append(len(z))
        assert going.wait(30)
        return units(z, sigma)

    typical = Canvas(torch.rand(SHAPE), 1.0)
    sampler = Sampler([Worker(slow_at_first, CPU)], 10, typical=typical)
    assert not sampler.warm
    sampler.start()
    wait_until(lambda: batches, 10, lambda: batches)
    assert not sampler.warm
    going.set()
    wait_until(lambda: sampler.warm, 10, lambda: batches)
    assert batches == [10, 10]
    each = ticket(n_select=4, budget=6)
    sampler.submit(each)
    assert each.result.result(10).reason == "budget"
    sampler.close()


def test_closing_fails_tickets_that_still_wait() -> None:
    def slow(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        time.sleep(0.01)
        return units(z, sigma)

    sampler = Sampler([Worker(slow, CPU)], 10)
    sampler.start()
    waiting = ticket(budget=100_000)
    sampler.submit(waiting)
    sampler.close()
    with pytest.raises(NotReady):
        waiting.result.result(10)
    with pytest.raises(NotReady):
        sampler.submit(ticket())


def test_small_batches_do_not_make_the_device_look_slow(run: Run) -> None:
    """On a GPU, a batch of 4 samples takes as long as one of 64."""

    def constant(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        time.sleep(0.01)
        return units(z, sigma)

    sampler = run(constant, batch_size=64)
    full = ticket(n_select=64, budget=64 * 60)
    sampler.submit(full)
    full.result.result(30)
    before = sampler.work_per_second
    for seed in range(30):
        small = ticket(seed=seed, n_select=2, budget=2)
        sampler.submit(small)
        small.result.result(10)
    assert sampler.work_per_second == pytest.approx(before, rel=0.01)


def test_whoever_has_an_answer_finds_its_samples_counted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of this sampler alone: services of other tests draw too.
    registry = CollectorRegistry()
    monkeypatch.setattr(metrics, "SAMPLES", Counter("samples", "Drawn.", registry=registry))
    seen: list[float] = []
    asked = ticket(n_select=16, budget=64)
    asked.result.add_done_callback(
        lambda _: seen.append(metric_lines.total(generate_latest(registry).decode(), "samples_total"))
    )
    run().submit(asked)
    wait_until(lambda: seen, 10, lambda: "no answer")
    assert seen == [16 + 64]


def _counted(reason: str) -> float:
    value = REGISTRY.get_sample_value("smoothgate_failed_images_total", {"reason": reason})
    assert value is not None
    return value


def test_a_picture_with_features_that_are_no_numbers_fails_alone(run: Run) -> None:
    def nan_for_one(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        found = units(z, sigma)
        found[z.flatten(1).mean(1) > 50] = torch.nan
        return found

    sampler = run(nan_for_one)
    odd, other = ticket(seed=1, n_select=4), ticket(seed=2, n_select=16, budget=300)
    odd.task.x.fill_(100.0)
    sampler.submit(other)
    sampler.submit(odd)
    with pytest.raises(Unacceptable):
        odd.direction.result(10)
    assert other.result.result(10).reason == "budget"
    assert sampler.alive


def test_certification_samples_that_are_no_numbers_fail_their_picture_alone(run: Run) -> None:
    seen = 0

    def nan_after_selection(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        nonlocal seen
        found = units(z, sigma)
        odd = z.flatten(1).mean(1) > 50
        if seen >= 4:
            found[odd] = torch.nan
        seen += int(odd.sum())
        return found

    sampler = run(nan_after_selection)
    odd, other = ticket(seed=1, n_select=4), ticket(seed=2, budget=300)
    odd.task.x.fill_(100.0)
    before = _counted("scores")
    sampler.submit(odd)
    sampler.submit(other)
    with pytest.raises(SamplerFailed):
        odd.result.result(10)
    assert other.result.result(10).reason == "budget"
    assert sampler.alive
    assert _counted("scores") == before + 1


def test_mathematics_that_gives_up_fails_its_picture_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    odd, other = ticket(seed=1), ticket(seed=2, budget=300)

    def gives_up(first: int, scores: object) -> None:
        raise RuntimeError("Maximum number of iterations reached.")

    monkeypatch.setattr(odd.certifier, "update", gives_up)
    sampler = run()
    sampler.submit(odd)
    sampler.submit(other)
    with pytest.raises(SamplerFailed):
        odd.result.result(10)
    assert other.result.result(10).reason == "budget"
    assert sampler.alive


def test_closing_does_not_wait_for_ever_for_a_thread_that_hangs() -> None:
    hanging, going = threading.Event(), threading.Event()

    def hangs(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        hanging.set()
        going.wait(30)
        return units(z, sigma)

    sampler = Sampler([Worker(hangs, CPU)], 10)
    sampler.start()
    taken, waiting = ticket(budget=1), ticket(seed=2)
    sampler.submit(taken)
    sampler.submit(waiting)
    assert hanging.wait(10)
    started = time.monotonic()
    sampler.close(seconds=0.2)
    assert time.monotonic() - started < 5
    for each in (taken, waiting):
        with pytest.raises(NotReady):
            each.direction.result(0)
    going.set()


def test_batches_that_fail_one_after_the_other_mean_that_the_device_is_lost(run: Run) -> None:
    broken = threading.Event()

    def fragile(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        if broken.is_set():
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return units(z, sigma)

    def fail(sampler: Sampler, times: int) -> None:
        for number in range(times):
            lost = ticket(seed=number)
            sampler.submit(lost)
            with pytest.raises(SamplerFailed):
                lost.result.result(10)

    sampler = run(fragile)
    broken.set()
    fail(sampler, LOST_AFTER - 1)
    assert not sampler.device_lost
    broken.clear()
    good = ticket()
    sampler.submit(good)
    good.result.result(10)
    broken.set()
    fail(sampler, LOST_AFTER - 1)
    assert not sampler.device_lost, "a good batch between them starts the count again"
    fail(sampler, 1)
    assert sampler.device_lost
