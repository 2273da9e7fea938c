"""The choice of batch size and threads, with encoders whose time per batch is known."""

import threading
import time

import torch
from torch import Tensor

from smoothgate.sampling.autotune import Tuning, autotune, smallest_near_best
from smoothgate.vision import Layout

CPU = torch.device("cpu")
SHAPE = (3, 4, 4)


def test_the_smallest_batch_near_the_best_is_chosen() -> None:
    rates = {8: 500.0, 16: 975.0, 32: 1000.0, 64: 990.0}
    found = [Tuning(1, 1, size, rate) for size, rate in rates.items()]
    assert smallest_near_best(found) == found[1]
    assert smallest_near_best([*found, Tuning(2, 1, 8, 980.0)]).workers == 2
    assert smallest_near_best([*found, Tuning(2, 1, 16, 980.0)]) == found[1]


def test_the_fastest_size_is_found() -> None:
    """Batches of up to 16 samples take the same time. Each further sample takes twice its share of that."""

    def units(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        time.sleep(0.02 + 0.0025 * max(0, len(z) - 16))
        return z.flatten(1)

    tuning = autotune(units, SHAPE, CPU, threads=1)
    assert (tuning.workers, tuning.threads, tuning.batch_size) == (1, 1, 16)
    assert 200 < tuning.samples_per_second <= 16 / 0.02


def test_one_worker_is_chosen_when_workers_block_each_other() -> None:
    one_at_a_time = threading.Lock()

    def units(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        with one_at_a_time:
            time.sleep(0.001 * len(z) / torch.get_num_threads())
        return z.flatten(1)

    tuning = autotune(units, SHAPE, CPU, threads=4)
    assert (tuning.workers, tuning.threads) == (1, 4)


def test_several_workers_are_chosen_when_they_do_not_block_each_other() -> None:
    def units(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        time.sleep(0.001 * len(z))
        return z.flatten(1)

    tuning = autotune(units, SHAPE, CPU, threads=4)
    assert (tuning.workers, tuning.threads) == (4, 1)


def test_a_given_batch_size_is_the_only_one_measured() -> None:
    sizes = set()

    def units(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        sizes.add(len(z))
        return z.flatten(1)

    assert autotune(units, SHAPE, CPU, threads=1, batch_size=24).batch_size == 24
    assert sizes == {24}
