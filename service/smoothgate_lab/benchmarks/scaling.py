"""A simulation of gates and engines under a rush of requests: `smoothgate bench scaling`.

Requests about one picture arrive as a Poisson process, first at a third of the rate, then at the full rate. A
request goes to the less loaded of two random gates, as with common gateways. It waits there for the samples
before it, and then for a place in a vLLM. Gates are added and removed as KEDA and Kubernetes do with the
numbers of `deploy/components/autoscaling`, from metrics that were scraped one interval ago.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from smoothgate_lab.benchmarks.costs import GPUS, Cost, cost, llava, qwen, qwen_small

RATES = (1.0, 10.0, 100.0, 1000.0)
SIGNALS = ("queued", "busy", "both")
#: The rate at which signals and thresholds are compared.
COMPARED_RATE = 100.0
#: Lengths of the time before the rush and of the rush.
QUIET_SECONDS, RUSH_SECONDS = 120.0, 1200.0
#: Length of the settled end, which is reported.
SETTLED_SECONDS = 300.0
SAMPLES = 128 + 1024
#: Share of the samples that a target with early stopping draws (demo model, `smoothgate bench sampler`).
EARLY_STOP = 0.206

# From deploy/components/autoscaling/scaledobject.yaml.
INTERVAL = 15.0
QUEUED_SECONDS = 30.0
BUSY = 0.7
LEAST = 2
GROWTH, GROWTH_PODS, GROWTH_PERIOD = 1.0, 2, 120.0
STAY, SHRINK, SHRINK_PERIOD = 600.0, 0.1, 180.0
# By default, Kubernetes changes nothing within this share of the target.
_TOLERANCE = 0.1
#: Assumed time for scheduling, loading, measuring and the canary, with the image present.
START_SECONDS = 120.0
#: The service's `MAX_QUEUED_SECONDS`.
LONGEST_WAIT = 60.0
#: A threshold that is too low.
EAGER_SECONDS = 5.0
#: The share of their capacity at which vLLMs run.
ENGINE_LOAD = 0.7


@dataclass(frozen=True, slots=True)
class Run:
    """One simulated rush.

    Attributes:
        rate: requests per second in the rush.
        signal: the signal by which gates are scaled.
        threshold: target of queued samples per gate, in seconds of one device.
        needed: number of gates that would be busy all the time.
        gates: mean number of gates in the settled end.
        most: largest number of gates.
        p50, p99: percentiles of seconds until the certificate in the settled end.
        worst: 99th percentile of the whole rush.
        refused: share of all requests that were refused (429).
        settled_refused: the same share in the settled end.
    """

    rate: float
    signal: str
    threshold: float
    needed: float
    gates: float
    most: int
    p50: float
    p99: float
    worst: float
    refused: float
    settled_refused: float


class Autoscaler:
    """The arithmetic of the horizontal autoscaler and its limits on growing and shrinking."""

    def __init__(self, gates: int, signal: str, threshold: float) -> None:
        self._signal = signal
        self._threshold = threshold
        self._wanted: deque[tuple[float, int]] = deque()
        self._sizes: deque[tuple[float, int]] = deque([(0.0, gates)])

    def decide(self, now: float, gates: int, queued_seconds: float, busy: float) -> int:
        """The number of gates that there should be, from sums over all gates."""
        ratios = {"queued": queued_seconds / self._threshold, "busy": busy / BUSY}
        sums = [value for name, value in ratios.items() if self._signal in (name, "both")]
        desired = max(gates if abs(value / gates - 1.0) <= _TOLERANCE else math.ceil(value) for value in sums)
        desired = max(LEAST, desired)
        self._wanted.append((now, desired))
        while self._wanted[0][0] < now - STAY:
            self._wanted.popleft()
        while len(self._sizes) > 1 and self._sizes[1][0] <= now - SHRINK_PERIOD:
            self._sizes.popleft()
        if desired > gates:
            before = self._before(now - GROWTH_PERIOD)
            decided = min(desired, max(math.floor(before * (1.0 + GROWTH)), before + GROWTH_PODS))
            decided = max(decided, gates)
        else:
            before = self._before(now - SHRINK_PERIOD)
            least = min(math.ceil(before * (1.0 - SHRINK)), before - 1)
            stay = max(wanted for _, wanted in self._wanted)
            decided = min(gates, max(stay, least))
        if decided != gates:
            self._sizes.append((now, decided))
        return decided

    def _before(self, moment: float) -> int:
        return [size for when, size in self._sizes if when <= moment or when == self._sizes[0][0]][-1]


def simulate(
    rate: float, signal: str, service: float, threshold: float = QUEUED_SECONDS, seed: int = 0
) -> Run:
    """Simulate gates under a rush.

    Args:
        rate: requests per second in the rush.
        signal: one of `SIGNALS`.
        service: seconds that one gate needs for one picture.
        threshold: see `Run`.
        seed: seed of arrivals and choices.
    """
    rng = random.Random(seed)
    third = max(LEAST, math.ceil(rate / 3 * service / BUSY))
    scaler = Autoscaler(third, signal, threshold)
    free = [0.0] * third  # when each gate will have finished its work
    starting: deque[float] = deque()
    end = QUIET_SECONDS + RUSH_SECONDS
    waits: list[tuple[float, float]] = []
    refused: list[float] = []
    sizes: list[tuple[float, int]] = []
    now, next_look, admitted, backlog, seen = 0.0, INTERVAL, 0.0, 0.0, (0.0, rate / 3 * service)
    busy: deque[float] = deque(maxlen=round(60 / INTERVAL))
    while True:
        now += rng.expovariate(rate if now >= QUIET_SECONDS else rate / 3)
        while now >= next_look:
            while starting and starting[0] <= next_look:
                starting.popleft()
                free.append(next_look)
            left = sum(max(0.0, each - next_look) for each in free)
            busy.append((admitted + backlog - left) / INTERVAL)
            admitted, backlog = 0.0, left
            gates = scaler.decide(next_look, len(free) + len(starting), *seen)
            seen = (left, sum(busy) / len(busy))
            while gates > len(free) + len(starting):
                starting.append(next_look + START_SECONDS)
            while gates < len(free) + len(starting):
                if starting:
                    starting.pop()
                else:
                    backlog -= max(0.0, free.pop() - next_look)  # it finishes its work and takes no more
            sizes.append((next_look, gates))
            next_look += INTERVAL
        if now >= end:
            break
        gate, other = rng.randrange(len(free)), rng.randrange(len(free))
        if free[other] < free[gate]:
            gate = other
        wait = max(0.0, free[gate] - now) + service
        if wait > LONGEST_WAIT and wait > service:
            refused.append(now)
            continue
        free[gate] = now + wait
        admitted += service
        waits.append((now, wait))
    rush = np.array([(when, wait) for when, wait in waits if when >= QUIET_SECONDS])
    settled = rush[rush[:, 0] >= end - SETTLED_SECONDS, 1]
    refused_late = sum(when >= end - SETTLED_SECONDS for when in refused)
    return Run(
        rate=rate,
        signal=signal,
        threshold=threshold,
        needed=rate * service,
        gates=float(np.mean([size for when, size in sizes if when >= end - SETTLED_SECONDS])),
        most=max(size for _, size in sizes),
        p50=float(np.percentile(settled, 50)),
        p99=float(np.percentile(settled, 99)),
        worst=float(np.percentile(rush[:, 1], 99)),
        refused=len(refused) / (len(refused) + len(waits)),
        settled_refused=refused_late / (refused_late + settled.size),
    )


@dataclass(frozen=True, slots=True)
class EngineRun:
    """The vLLMs behind those gates.

    Attributes:
        rate: requests per second.
        engines: number of vLLMs.
        sequences: number of places in all of them.
        wait_p99: 99th percentile of seconds until a place is free.
        answer_p50: median of seconds from then to the last token.
        embedding_gbit: visual tokens that cross the network, in 10^9 bits per second.
    """

    rate: float
    engines: int
    sequences: int
    wait_p99: float
    answer_p50: float
    embedding_gbit: float


def engines(
    rate: float, costs: Cost, embedding_bytes: float, seed: int = 0, requests: int = 50_000
) -> EngineRun:
    """Simulate vLLMs as places that answers occupy. The lengths of answers are exponential."""
    rng = random.Random(seed)
    number = math.ceil(rate / (ENGINE_LOAD * costs.answers_per_second))
    places = [0.0] * (number * costs.sequences)
    now, waits, answers = 0.0, [], []
    for _ in range(requests):
        now += rng.expovariate(rate)
        start = max(now, places[0])
        answer = rng.expovariate(1.0) * costs.sequence_seconds
        heapq.heapreplace(places, start + answer)
        waits.append(start - now)
        answers.append(answer)
    late = slice(requests // 2, None)
    return EngineRun(
        rate=rate,
        engines=number,
        sequences=len(places),
        wait_p99=float(np.percentile(waits[late], 99)),
        answer_p50=float(np.percentile(answers[late], 50)),
        embedding_gbit=rate * embedding_bytes * 8 / 1e9,
    )


def run(seed: int = 0) -> dict[str, Any]:
    """All figures: costs of an answer, gates under a rush, engines behind them. Takes some seconds."""
    model, gpu = llava(), GPUS[-1]
    chosen = cost(model, gpu, SAMPLES)
    service = chosen.certify_seconds
    return {
        "seed": seed,
        "samples": SAMPLES,
        "costs": [asdict(cost(each, on, SAMPLES)) for each in (model, qwen_small(), qwen()) for on in GPUS],
        "gates": [asdict(simulate(rate, "both", service, seed=seed)) for rate in RATES],
        "early": [asdict(simulate(rate, "both", EARLY_STOP * service, seed=seed)) for rate in RATES],
        "signals": [
            asdict(simulate(COMPARED_RATE, signal, service, threshold, seed))
            for signal in SIGNALS
            for threshold in (EAGER_SECONDS, QUEUED_SECONDS)[signal == "busy" :]
        ],
        "engines": [asdict(engines(rate, chosen, model.embedding_bytes, seed)) for rate in RATES],
    }
