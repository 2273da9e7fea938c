"""The sampler compared with the bare forward, a loop over samples and a call per request, in one run.

Every comparison alternates between its sides. It reports the median of the rounds' ratios, so that a machine
that slows down affects both sides.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor
from transformers import AutoConfig, CLIPVisionModel

from smoothgate.bundled import DEMO
from smoothgate.certify.statement import Target, Terms
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.sampling import noise
from smoothgate.sampling.autotune import Tuning, autotune, cores
from smoothgate.sampling.draw import generator_noise, noisy
from smoothgate.sampling.sampler import Sampler, Worker
from smoothgate.sampling.splits import draw_splits
from smoothgate.sampling.ticket import SamplingTask, Ticket
from smoothgate.vision import Canvas
from smoothgate_lab.demo.digit_scenes import DigitScenes

SIGMA = 0.5
EPS = 0.25
ALPHA = 0.001
#: Numbers of samples of 16 simultaneous requests.
MIXED = (64,) * 4 + (128,) * 3 + (256,) * 3 + (512,) * 2 + (1024,) * 2 + (2048,) * 2
SMALL = 64


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured. The defaults are those of the documentation."""

    rounds: int = 3
    mixed: tuple[int, ...] = MIXED
    singles: int = 200
    latencies: int = 15
    large: int = 4096
    scenes: int = 200
    budget: int = 1024
    growth: tuple[int, ...] = (64, 256, 1024, 4096)
    concurrency: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    sides: tuple[int, ...] = (48, 96, 144, 192)


#: Very small sizes, to check that the benchmark works.
QUICK = Size(
    rounds=1,
    mixed=(64, 128),
    singles=8,
    latencies=2,
    large=256,
    scenes=1,
    budget=128,
    growth=(64, 128),
    concurrency=(1, 2),
    sides=(48, 96),
)


class Bench:
    """The bundled encoder, used as the service uses it on this machine.

    Args:
        encoder: the encoder.
        canvases: (N, 3, H, W) scenes that were not used in training, at least one.
        size: how much to measure.
    """

    def __init__(self, encoder: UnitEncoder, canvases: Tensor, size: Size) -> None:
        self.encoder = encoder
        self.canvases = canvases
        self.size = size
        self.device = encoder.adapter.device
        self.tuning: Tuning = autotune(encoder.units, Canvas(canvases[0], 1.0), self.device)

    def sampler(self) -> Sampler:
        """A sampler as the service starts it."""
        worker = Worker(self.encoder.units, self.device, self.tuning.threads)
        sampler = Sampler([worker] * self.tuning.workers, self.tuning.batch_size)
        sampler.start()
        return sampler

    def task(self, index: int, n: int, target: Target | None = None) -> SamplingTask:
        """n samples of a scene, an eighth of them for selection."""
        terms = Terms(sigma=SIGMA, alpha=ALPHA, eps=(EPS,), target=target)
        n_select = max(1, min(128, n // 8))
        return SamplingTask(self.canvases[index % len(self.canvases)], terms, n_select, n - n_select)

    def ticket(self, index: int, n: int, target: Target | None = None) -> Ticket:
        """A request of n samples."""
        return Ticket(self.task(index, n, target), noise.fresh_seed())

    def throughput(self, step: Callable[[], None]) -> dict[str, Any]:
        """Samples per second of the sampler on mixed requests and of plainer methods."""
        methods: dict[str, Callable[[], float]] = {
            "sampler": self._sampled,
            "bare forward": lambda: self._bare(
                self.tuning.workers, self.tuning.threads, self.tuning.batch_size
            ),
            "bare forward, all cores at once, batch 64": lambda: self._bare(1, cores(), 64),
            "a batched call per request": self._in_turn,
            "a loop over single samples": self._singles,
        }
        rates: dict[str, list[float]] = {name: [] for name in methods}
        for _ in range(self.size.rounds):
            for name, method in methods.items():
                rates[name].append(method())
                step()
        ratios = {
            name: statistics.median(a / b for a, b in zip(rates["sampler"], rates[name], strict=True))
            for name in methods
        }
        return {
            "samples_per_second": {name: statistics.median(each) for name, each in rates.items()},
            "sampler_to": ratios,
        }

    def latency(self, step: Callable[[], None]) -> dict[str, float]:
        """Seconds of a request of 64 samples, alone and while a large request runs."""
        sampler = self.sampler()
        alone, beside = [], []
        try:
            for index in range(self.size.latencies):
                # The rest of the round before must not count as waiting.
                time.sleep(3 * self.tuning.batch_size * self.tuning.workers / sampler.work_per_second)
                alone.append(self._wait(sampler, [self.ticket(index, SMALL)]))
                large = self.ticket(index + 1, self.size.large)
                sampler.submit(large)
                large.direction.result()
                beside.append(self._wait(sampler, [self.ticket(index, SMALL)]))
                large.cancel()
                step()
        finally:
            sampler.close()
        ratio = statistics.median(beside) / statistics.median(alone)
        return {"alone": statistics.median(alone), "beside": statistics.median(beside), "ratio": ratio}

    def early_stop(self, step: Callable[[], None]) -> dict[str, float]:
        """Samples drawn with and without early stopping at a cosine of 0.5, and how often verdicts agree."""
        target = Target(cosine=0.5, eps=EPS)
        sampler = self.sampler()
        drawn, same, certified = 0, 0, 0
        try:
            for index in range(self.size.scenes):
                pair = [self.ticket(index, self.size.budget), self.ticket(index, self.size.budget, target)]
                for ticket in pair:
                    sampler.submit(ticket)
                fixed, early = (ticket.result.result() for ticket in pair)
                verdict = fixed.rule.statement().points[0].value >= target.cosine
                drawn += pair[1].task.n_select + early.rule.n
                same += verdict == (early.reason == "certified")
                certified += verdict
                step()
        finally:
            sampler.close()
        n = self.size.scenes
        share = drawn / (n * self.size.budget)
        return {"share_drawn": share, "verdicts_equal": same / n, "certified": certified / n}

    def growth(self, step: Callable[[], None]) -> dict[str, list[dict[str, float]]]:
        """Seconds by n of one request, and by the number of simultaneous requests (n = 256)."""
        sampler = self.sampler()
        by_n, by_requests = [], []
        try:
            for n in self.size.growth:
                by_n.append({"at": n, "seconds": self._wait(sampler, [self.ticket(0, n)])})
                step()
            for count in self.size.concurrency:
                tickets = [self.ticket(index, 256) for index in range(count)]
                by_requests.append({"at": count, "seconds": self._wait(sampler, tickets)})
                step()
        finally:
            sampler.close()
        return {"samples of a request": by_n, "requests of 256 samples": by_requests}

    def _wait(self, sampler: Sampler, tickets: Sequence[Ticket]) -> float:
        started = time.perf_counter()
        for ticket in tickets:
            sampler.submit(ticket)
        for ticket in tickets:
            ticket.result.result()
        return time.perf_counter() - started

    def _sampled(self) -> float:
        sampler = self.sampler()
        try:
            tickets = [self.ticket(index, n) for index, n in enumerate(self.size.mixed)]
            return sum(self.size.mixed) / self._wait(sampler, tickets)
        finally:
            sampler.close()

    def _bare(self, workers: int, threads: int, batch: int) -> float:
        """Only the forward, repeated on one batch of noisy canvases that is made in advance."""
        sigma = torch.full((batch,), SIGMA)
        z = noisy(self.canvases[0], sigma, torch.randn(batch, *self.canvases.shape[1:]))
        times = max(1, sum(self.size.mixed) // (batch * workers))

        def work() -> None:
            torch.set_num_threads(threads)
            with torch.inference_mode():
                for _ in range(times):
                    self.encoder.units(z, sigma)

        running = [threading.Thread(target=work) for _ in range(workers)]
        started = time.perf_counter()
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        return times * batch * workers / (time.perf_counter() - started)

    def _in_turn(self) -> float:
        """Each request alone with a batched call per split, as in libraries for randomised smoothing."""
        started = time.perf_counter()
        for index, n in enumerate(self.size.mixed):
            self._plain(index, n, n)
        return sum(self.size.mixed) / (time.perf_counter() - started)

    def _singles(self) -> float:
        """The paper's Monte Carlo loop over single samples."""
        started = time.perf_counter()
        self._plain(0, self.size.singles, 1)
        return self.size.singles / (time.perf_counter() - started)

    def _plain(self, index: int, n: int, batch: int) -> None:
        torch.set_num_threads(cores())
        task = self.task(index, n)
        splits = draw_splits(
            self.encoder.units,
            task.x,
            SIGMA,
            generator_noise(torch.Generator()),
            task.n_select,
            task.budget,
            batch=batch,
        )
        splits.statement(task.terms)


def canvas_growth(
    encoder: UnitEncoder, sizes: Sequence[int], step: Callable[[], None]
) -> list[dict[str, float]]:
    """Seconds per sample by the side of the canvas.

    A sample passes the purifier and a tower of the demo model's kind with random weights.
    """
    rows = []
    for size in sizes:
        config = AutoConfig.from_pretrained(DEMO.model).vision_config
        config.image_size = size
        tower = CLIPVisionModel(config).eval()
        z, sigma = torch.rand(8, 3, size, size), torch.full((8,), SIGMA)
        seconds = []
        with torch.inference_mode():
            for _ in range(5):
                started = time.perf_counter()
                tower(encoder.psm.purifier(z, sigma))
                seconds.append((time.perf_counter() - started) / len(z))
        rows.append({"at": size, "seconds": min(seconds)})
        step()
    return rows


def memory(large: int) -> dict[str, float]:
    """Peak resident bytes of new processes that draw n = 64 and n = `large` samples."""
    peaks = {}
    for n in (SMALL, large):
        command = [sys.executable, "-m", "smoothgate_lab.benchmarks.memory", str(n)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
        peaks[n] = float(printed.split()[-1])
    return {"small": peaks[SMALL], "large": peaks[large], "ratio": peaks[large] / peaks[SMALL]}


def run(encoder: UnitEncoder, size: Size, console: Console) -> dict[str, Any]:
    """Run the benchmark, with a progress bar for each part.

    Returns:
        `tuned`: how the device is used; `throughput`: `samples_per_second` and `sampler_to` (ratio) by
        method; `latency`: seconds `alone` and `beside` (while a large request runs), `ratio`; `memory`: bytes
        `small` and `large`, `ratio`; `early_stop`: `share_drawn`, `verdicts_equal`, `certified`; `growth`:
        growing quantity -> rows of `at` and `seconds` (of a request, or of a sample for the side of the
        canvas).
    """
    bench = Bench(encoder, DigitScenes(encoder.adapter, max(32, size.scenes), 0, 7).canvases, size)
    with Progress(console=console) as progress:

        def part(name: str, steps: int) -> Callable[[], None]:
            task = progress.add_task(name, total=steps)
            return lambda: progress.advance(task)

        throughput = bench.throughput(part("throughput", 5 * size.rounds))
        latency = bench.latency(part("latency", size.latencies))
        growth = bench.growth(part("growth", len(size.growth) + len(size.concurrency)))
        growth["side of the canvas"] = canvas_growth(
            encoder, size.sides, part("canvas sizes", len(size.sides))
        )
        early_stop = bench.early_stop(part("early stop", size.scenes))
        step = part("memory", 1)
        peaks = memory(size.large)
        step()
    return {
        "tuned": asdict(bench.tuning),
        "throughput": throughput,
        "latency": latency,
        "memory": peaks,
        "early_stop": early_stop,
        "growth": growth,
    }
