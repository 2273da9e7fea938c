"""Answers that are certified: what holds them up, and what one costs. `smoothgate bench answers`.

A sample passes two stages: a noisy forward at the sampler, and a generation at vLLM. On a CPU both would use
the same cores, and neither could be as fast beside the other as it is alone. So each stage gets half of the
cores for itself, and has the same half when it is measured alone. The service's own work is done on the
sampler's half.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from torch import Tensor

from smoothgate.engine.prompt_lists import PromptLists
from smoothgate.errors import SmoothgateError
from smoothgate.gate.answer_form import AnswerForm
from smoothgate.gate.asking import ChatAsker, ListAsker
from smoothgate.gate.chat_images import ImageSlot
from smoothgate.gate.service import Service
from smoothgate.gate.token_meter import TokenMeter
from smoothgate.off_loop import off_loop
from smoothgate.vision import DecodedImage, decode
from smoothgate.vision.text_embeddings import TextEmbeddings
from smoothgate_lab.benchmarks.served_demo import serving
from smoothgate_lab.benchmarks.serving_bench import picture_file, picture_uri

Json = dict[str, Any]

SIGMA = 0.5
QUESTION = "What digit is shown?"
#: The cosine of the feature certificate that stands beside a certified answer.
COSINE = 0.5
N_SELECT = 16


@dataclass(frozen=True, slots=True)
class Amount:
    """How much is measured.

    Attributes:
        rounds: of the three rates, which alternate.
        requests: of a round, at the same time.
        samples: of each of them.
        pictures: that are certified one by one.
    """

    rounds: int = 5
    requests: int = 4
    samples: int = 512
    pictures: int = 12


#: Very little, to check that it works.
QUICK = Amount(rounds=1, requests=1, samples=64, pictures=1)


def run(amount: Amount, step: Callable[[], None]) -> Json:
    """Run the benchmark.

    Args:
        amount: how much is measured.
        step: called after each round and each picture.

    Returns:
        `cores`: of each stage; `samples`: of a request; `samples_per_second`: medians of `answered` (noisy
        forward, generation and count, through HTTP), `sampler` and `engine` (each stage alone); `share`:
        median over the rounds of answered to the slower stage; `answer`, `features`: medians of one picture,
        alone, whose answer or features are certified at a radius of sigma: `samples`, `seconds`, and
        `certified`, the share of pictures; for features also the `cosine` that is certified there.

    Raises:
        SmoothgateError: this machine cannot give each stage cores of its own, or something failed.
    """
    ours, engines = _halves()
    before = os.sched_getaffinity(0)
    # vLLM is started from this thread, and keeps these cores.
    os.sched_setaffinity(0, engines)
    try:
        return asyncio.run(_run(amount, ours, step))
    finally:
        os.sched_setaffinity(0, before)


def _halves() -> tuple[set[int], set[int]]:
    """The cores of the service, and those of vLLM."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    half = len(allowed) // 2
    if not half:
        raise SmoothgateError("This benchmark needs Linux and two cores.", code="too_few_cores")
    return set(allowed[:half]), set(allowed[half : 2 * half])


def _keep_to(cores: set[int]) -> None:
    """Let all threads of this process use these cores alone."""
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), cores)


async def _run(amount: Amount, cores: set[int], step: Callable[[], None]) -> Json:
    async with serving() as (service, gate):
        await off_loop(_keep_to, cores)
        embeddings = await off_loop(TextEmbeddings, service.model.checkpoint)
        stages = _Stages(service, gate, amount, embeddings)
        await stages.answered(0)  # vLLM's first requests are slow
        rates: dict[str, list[float]] = {"answered": [], "sampler": [], "engine": []}
        for round_ in range(amount.rounds):
            rates["answered"].append(await stages.answered(1 + round_))
            features, rate = await stages.sampled(1 + round_)
            rates["sampler"].append(rate)
            rates["engine"].append(await stages.generated(features))
            step()
        shares = [a / min(s, e) for a, s, e in zip(*rates.values(), strict=True)]
        answer = {"certify": "answer", "sigma": SIGMA, "target": {"eps": SIGMA}}
        target = {"cosine": COSINE, "eps": SIGMA}
        features_ = {"certify": "features", "sigma": SIGMA, "n_certify": 4096, "target": target}
        costs: dict[str, list[Json]] = {"answer": [], "features": []}
        for number in range(amount.pictures):
            costs["answer"].append(await stages.asked(10_000 + number, answer))
            costs["features"].append(await stages.asked(10_000 + number, features_))
            step()
    return {
        "cores": len(cores),
        "samples": amount.samples,
        "samples_per_second": {name: statistics.median(each) for name, each in rates.items()},
        "share": statistics.median(shares),
        "answer": _medians(costs["answer"]),
        "features": _medians(costs["features"]) | {"cosine": COSINE},
    }


class _Stages:
    """The two stages together and alone, on the same pictures."""

    def __init__(
        self, service: Service, gate: httpx.AsyncClient, amount: Amount, embeddings: TextEmbeddings
    ) -> None:
        self._service = service
        self._gate = gate
        self._amount = amount
        self._embeddings = embeddings

    def _numbers(self, round_: int) -> range:
        first = round_ * self._amount.requests
        return range(first, first + self._amount.requests)

    async def answered(self, round_: int) -> float:
        """Answered samples per second of requests that come at the same time."""
        smoothing = {
            "certify": "answer",
            "sigma": SIGMA,
            "n_select": N_SELECT,
            "n_certify": self._amount.samples - N_SELECT,
        }
        began = time.perf_counter()
        await asyncio.gather(*(self.asked(number, smoothing) for number in self._numbers(round_)))
        return self._amount.requests * self._amount.samples / (time.perf_counter() - began)

    async def sampled(self, round_: int) -> tuple[list[list[Tensor]], float]:
        """The features of the same samples, and samples per second."""
        images = [await off_loop(_picture, number) for number in self._numbers(round_)]
        began = time.perf_counter()
        features = await asyncio.gather(*map(self._features, images))
        return features, len(images) * self._amount.samples / (time.perf_counter() - began)

    async def _features(self, image: DecodedImage) -> list[Tensor]:
        smoother, samples = self._service.smoother.loaded, self._amount.samples
        arrived: asyncio.Queue[Tensor | Exception] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def arrive(one: Tensor | Exception) -> None:
            loop.call_soon_threadsafe(arrived.put_nowait, one)

        relayed = await smoother.relay(
            image,
            sigma=SIGMA,
            samples=samples,
            n_select=N_SELECT,
            deliver=lambda _, units: arrive(units),
            failed=arrive,
            deadline=float("inf"),
            request=object(),
        )
        relayed.begin()
        relayed.allow(samples)
        features: list[Tensor] = []
        while len(features) < samples:
            units = await arrived.get()
            if isinstance(units, Exception):
                raise units
            features += units
        return features

    async def generated(self, features: Sequence[Sequence[Tensor]]) -> float:
        """Generations per second of as many requests, whose features are there."""
        encoder = self._service.smoother.loaded.encoder
        prompts = [[encoder.served_tokens(unit) for unit in each] for each in features]
        began = time.perf_counter()
        await asyncio.gather(*map(self._ask, prompts))
        return sum(map(len, prompts)) / (time.perf_counter() - began)

    async def _ask(self, prompts: Sequence[Tensor]) -> None:
        adapter, client = self._service.smoother.loaded.encoder.adapter, self._service.engine.client
        if adapter.list_token is None:
            raise SmoothgateError("This family is not asked in lists.")
        content = [{"type": "image_url"}, {"type": "text", "text": QUESTION}]
        body = {"messages": [{"role": "user", "content": content}], "model": self._service.model.name}
        chat = ChatAsker(
            client,
            body | _DECODING,
            [ImageSlot(0, 0, "", "")],
            [await off_loop(_picture, 0)],
            adapter,
            AnswerForm("text"),
            "bench",
            TokenMeter(None, lambda tokens: None),
        )
        lists = PromptLists(client, self._embeddings.rows, adapter.list_token[0], adapter.dtype)
        asker = ListAsker(chat, lists)
        samples = [(number, [tokens]) for number, tokens in enumerate(prompts)]
        await asker(samples[:1])
        waiting = iter([samples[at : at + asker.most] for at in range(1, len(samples), asker.most)])

        async def work() -> None:
            for some in waiting:
                await asker(some)

        await asyncio.gather(*(work() for _ in range(asker.parallel)))

    async def asked(self, number: int, smoothing: Json) -> Json:
        """One request: its samples, its seconds, and whether it is certified."""
        body = {"message": QUESTION, "images": [await off_loop(picture_uri, number)], "smoothing": smoothing}
        began = time.perf_counter()
        response = await self._gate.post("/v1/chat", json=body | _DECODING)
        seconds = time.perf_counter() - began
        answer = response.raise_for_status().json()
        if (certificate := answer["answer_certificate"]) is not None:
            samples = sum(certificate["selection"].values()) + sum(certificate["votes"].values())
        else:
            (certificate,) = answer["certificates"]
            samples = certificate["noise"]["n_select"] + certificate["noise"]["n_certify"]
        return {
            "samples": samples,
            "seconds": seconds,
            "certified": certificate["outcome"] == "certified",
        }


_DECODING: Json = {"max_tokens": 16, "temperature": 0}


def _picture(number: int) -> DecodedImage:
    return decode(picture_file(number), max_pixels=10**6)


def _medians(rows: Sequence[Json]) -> Json:
    return {
        "samples": statistics.median(row["samples"] for row in rows),
        "seconds": statistics.median(row["seconds"] for row in rows),
        "certified": statistics.fmean(row["certified"] for row in rows),
    }
