"""The choice of batch size and threads, with encoders whose time per batch is known."""

import threading

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from smoothgate.errors import SmoothgateError
from smoothgate.sampling import autotune as module_of_autotune
from smoothgate.sampling import device as module
from smoothgate.sampling import forward, selection
from smoothgate.sampling.autotune import Tuning, autotune, smallest_near_best
from smoothgate.sampling.device import Device
from smoothgate.sampling.draw import Units
from smoothgate.vision import Canvas, Layout

CPU = torch.device("cpu")
CANVAS = Canvas(torch.rand(3, 4, 4), 1.0, (4, 4))


class Clock(threading.local):
    """Stands in for the module `time`: in every thread it moves by what `pass_by` is told, and by no more."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_the_smallest_batch_near_the_best_is_chosen() -> None:
    rates = {8: 500.0, 16: 975.0, 32: 1000.0, 64: 990.0}
    found = [Tuning(1, 1, size, rate) for size, rate in rates.items()]
    assert smallest_near_best(found) == found[1]
    assert smallest_near_best([*found, Tuning(2, 1, 8, 980.0)]).workers == 2
    assert smallest_near_best([*found, Tuning(2, 1, 16, 980.0)]) == found[1]


def test_the_fastest_size_is_found(clock: Clock) -> None:
    """Batches of up to 16 samples take the same time. Each further sample takes twice its share of that."""

    def units(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        clock.pass_by(0.02 + 0.0025 * max(0, len(z) - 16))
        return z.flatten(1)

    tuning = autotune(units, CANVAS, CPU, threads=1)
    assert (tuning.workers, tuning.threads, tuning.batch_size) == (1, 1, 16)
    assert tuning.samples_per_second == pytest.approx(16 / 0.02)


def test_measuring_stops_growing_where_memory_runs_out() -> None:
    sizes = []

    def units(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        sizes.append(len(z))
        if len(z) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return z.flatten(1)

    assert autotune(units, CANVAS, CPU, threads=1).batch_size == 8
    assert set(sizes) == {8, 16}


def test_where_no_batch_fits_the_start_fails_with_the_reason() -> None:
    def units(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(SmoothgateError, match="SMOOTHGATE_BATCH_SIZE") as caught:
        autotune(units, CANVAS, CPU, threads=1)
    assert caught.value.code == "no_memory"


def test_an_encoder_that_cannot_be_measured_is_no_matter_of_memory() -> None:
    def units(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        autotune(units, CANVAS, CPU, threads=1)


def test_one_worker_is_chosen_when_workers_block_each_other(clock: Clock) -> None:
    def units(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        threads = torch.get_num_threads()
        workers = 4 / threads
        clock.pass_by(workers * 0.001 * len(z) / threads)
        return z.flatten(1)

    tuning = autotune(units, CANVAS, CPU, threads=4)
    assert (tuning.workers, tuning.threads) == (1, 4)


def test_several_workers_are_chosen_when_they_do_not_block_each_other(clock: Clock) -> None:
    def units(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        clock.pass_by(0.001 * len(z))
        return z.flatten(1)

    tuning = autotune(units, CANVAS, CPU, threads=4)
    assert (tuning.workers, tuning.threads) == (4, 1)
    assert tuning.samples_per_second == pytest.approx(4000)


def test_what_is_measured_is_what_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh noise in every row, the layout of the canvas, the scores, and on CUDA the compiled forward."""
    seen: list[Tensor] = []
    layouts: set[Layout] = set()
    scored: list[int] = []

    def units(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        seen.append(z.clone())
        layouts.add(layout)
        return F.normalize(z.flatten(1), dim=1)

    def scoring(cosines: Tensor) -> Tensor:
        scored.append(len(cosines))
        return selection.score(cosines)

    monkeypatch.setattr(forward, "score", scoring)
    autotune(units, CANVAS, CPU, threads=1, batch_size=8)
    rows = torch.cat(seen).flatten(1)
    assert len(torch.unique(rows, dim=0)) == len(rows) == 4 * 8
    assert float((rows - CANVAS.x.flatten()).std()) == pytest.approx(0.1, rel=0.1)
    assert layouts == {CANVAS.layout}
    assert scored == [8, 8, 8]


@pytest.mark.parametrize("one_shape", [True, False])
def test_on_cuda_the_compiled_forward_is_measured(monkeypatch: pytest.MonkeyPatch, one_shape: bool) -> None:
    made: list[tuple[int, bool]] = []

    class Recording(forward.Forward):
        def __init__(self, units: Units, device: Device, batch_size: int, *, one_shape: bool = True) -> None:
            super().__init__(units, device, batch_size, one_shape=one_shape)
            made.append((batch_size, one_shape))

    def units(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        return F.normalize(z.flatten(1), dim=1)

    monkeypatch.setattr(module_of_autotune, "Forward", Recording)
    autotune(units, CANVAS, CPU, threads=1, batch_size=8, one_shape=one_shape)
    assert made == [(8, one_shape)]


def test_a_given_batch_size_is_the_only_one_measured(clock: Clock) -> None:
    sizes = set()

    def units(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        sizes.add(len(z))
        clock.pass_by(0.01)
        return z.flatten(1)

    assert autotune(units, CANVAS, CPU, threads=1, batch_size=24).batch_size == 24
    assert sizes == {24}
