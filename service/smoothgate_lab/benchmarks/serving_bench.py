"""The service compared with vLLM alone, over HTTP and in one run: `smoothgate bench serving`."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
from PIL import Image

from smoothgate.bundled import DEMO
from smoothgate.engine import EngineState, LocalEngine, VLLMOptions
from smoothgate.errors import SmoothgateError
from smoothgate.gate.served_model import ServedModel
from smoothgate.vision.png import encode_png, png_data_uri
from smoothgate_lab.benchmarks.served_demo import serving

Json = dict[str, Any]

_QUESTION = "What digit is shown?"
_SAMPLE = "seven.png"
_WARM_UP = 3
#: Text takes more rounds than the others, because its two sides differ by only a few per cent.
TEXT_TIMES = 5
#: What `n_certify` was by default before certificates bounded the angle too.
LARGE_BUDGET = 1024


@dataclass(frozen=True, slots=True)
class Sides:
    """Clients of the service, of its vLLM, and of another vLLM that takes pictures."""

    gate: httpx.AsyncClient
    engine: httpx.AsyncClient
    pictures: httpx.AsyncClient
    model: str


def run(repeats: int, step: Callable[[], None]) -> Json:
    """Run the benchmark.

    Args:
        repeats: number of requests of each kind, which alternate with those they are compared to. Text has
            `TEXT_TIMES` as many.
        step: called after each round.

    Returns:
        `text`, `picture`: seconds (medians) of the two sides, and their ratio; `first_token`: seconds to the
        first token with certification during generation (`beside`) and before it (`first`), and the ratio
        of first to beside; `budget`: seconds (medians) of a picture's whole answer with the service's own
        terms (`default`) and with `LARGE_BUDGET` certification samples (`large`), and the ratio of large to
        default; `stages`: seconds (medians) that the stages of a picture's request add to it.
    """
    return asyncio.run(_run(repeats, step))


async def _run(repeats: int, step: Callable[[], None]) -> Json:
    async with (
        serving() as (service, gate),
        _own_pictures(service.model) as pictures,
        _over(cast(LocalEngine, service.engine).socket) as engine,
    ):
        sides = Sides(gate, engine, pictures, service.model.name)
        return {
            "text": await _text(sides, TEXT_TIMES * repeats, step),
            **await _picture(sides, repeats, step),
            "first_token": await _first_token(sides, repeats, step),
            "budget": await _budget(sides, repeats, step),
        }


@asynccontextmanager
async def _own_pictures(model: ServedModel) -> AsyncIterator[httpx.AsyncClient]:
    """vLLM on the same checkpoint, as the service starts it but with its own image path."""
    options = VLLMOptions(
        model=model.checkpoint,
        served_model_name=model.name,
        dtype=model.dtype_name,
        drain_seconds=0,
        media_limits={"image": 1},
    )
    engine = LocalEngine(options)
    await engine.start()
    try:
        while engine.status.state is not EngineState.READY:
            if engine.status.last_exit is not None:
                raise SmoothgateError(f"vLLM {engine.status.last_exit}")
            await asyncio.sleep(0.2)
        async with _over(engine.socket) as client:
            yield client
    finally:
        await engine.stop()


def _over(path: Path) -> httpx.AsyncClient:
    transport = httpx.AsyncHTTPTransport(uds=str(path))
    return httpx.AsyncClient(base_url="http://engine", transport=transport, timeout=120)


async def _text(sides: Sides, repeats: int, step: Callable[[], None]) -> Json:
    body = _body(sides, _QUESTION)
    seconds: dict[str, list[float]] = {"smoothgate": [], "vllm": []}
    for round_ in range(-_WARM_UP, repeats):
        for name, client in (("smoothgate", sides.gate), ("vllm", sides.engine)):
            taken = await _asked(client, body)
            if round_ >= 0:
                seconds[name].append(taken)
        if round_ >= 0:
            step()
    return _compared(seconds)


async def _picture(sides: Sides, repeats: int, step: Callable[[], None]) -> Json:
    """Compare requests with n = 64. Every picture is new, so nothing comes from a cache."""
    smoothing = {"n_select": 16, "n_certify": 48}
    seconds: dict[str, list[float]] = {"smoothgate": [], "vllm": []}
    stages: dict[str, list[float]] = {}
    for round_ in range(-_WARM_UP, repeats):
        uri = picture_uri(round_)
        parts: list[Json] = [
            {"type": "image_url", "image_url": {"url": uri}},
            {"type": "text", "text": _QUESTION},
        ]
        plain = await _asked(sides.pictures, _body(sides, parts))
        ours = await _asked(sides.gate, _body(sides, parts) | {"smoothing": smoothing})
        again = {"message": _QUESTION, "images": [picture_uri(1000 + round_)], "smoothing": smoothing}
        answer = await sides.gate.post("/v1/chat", json=again | {"max_tokens": 16, "temperature": 0})
        if round_ < 0:
            continue
        seconds["vllm"].append(plain)
        seconds["smoothgate"].append(ours)
        for stage, taken in _stages(answer.raise_for_status().json()["timings"]).items():
            stages.setdefault(stage, []).append(taken)
        step()
    return {
        "picture": _compared(seconds),
        "stages": {name: statistics.median(each) for name, each in stages.items()},
    }


def _stages(timings: dict[str, float]) -> dict[str, float]:
    """Seconds that each stage adds to the total. Certification runs in parallel with the engine."""
    return {
        "decode": timings["decode"],
        "select: the served feature": timings["select"] - timings["decode"],
        "engine": timings["engine"],
        "certify, after the engine": timings["total"] - timings["select"] - timings["engine"],
        "total": timings["total"],
    }


async def _first_token(sides: Sides, repeats: int, step: Callable[[], None]) -> Json:
    """Compare times to the first token with n = 1,024, with certification during and before generation."""
    smoothing = {"n_select": 128, "n_certify": 896}
    seconds: dict[str, list[float]] = {"beside": [], "first": []}
    for round_ in range(repeats):
        for name, picture in (("beside", 2000 + round_), ("first", 3000 + round_)):
            uri = picture_uri(picture)
            started = time.perf_counter()
            if name == "first":
                asked = {"images": [uri], "smoothing": smoothing}
                (await sides.gate.post("/v1/certify", json=asked)).raise_for_status()
            parts: list[Json] = [
                {"type": "image_url", "image_url": {"url": uri}},
                {"type": "text", "text": _QUESTION},
            ]
            body = _body(sides, parts) | {"smoothing": smoothing, "stream": True}
            async with sides.gate.stream("POST", "/v1/chat/completions", json=body) as response:
                response.raise_for_status()
                waiting = True
                async for line in response.aiter_lines():
                    if waiting and _has_text(line):
                        seconds[name].append(time.perf_counter() - started)
                        waiting = False
        step()
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    return medians | {"ratio": medians["first"] / medians["beside"]}


async def _budget(sides: Sides, repeats: int, step: Callable[[], None]) -> Json:
    """Compare whole answers to new pictures, certified with few samples and with many."""
    terms: dict[str, Json] = {"default": {}, "large": {"smoothing": {"n_certify": LARGE_BUDGET}}}
    seconds: dict[str, list[float]] = {name: [] for name in terms}
    for round_ in range(repeats):
        for at, (name, fields) in enumerate(terms.items()):
            image = {"type": "image_url", "image_url": {"url": picture_uri((4 + at) * 1000 + round_)}}
            parts: list[Json] = [image, {"type": "text", "text": _QUESTION}]
            seconds[name].append(await _asked(sides.gate, _body(sides, parts) | fields))
        step()
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    return medians | {"ratio": medians["large"] / medians["default"]}


def _has_text(line: str) -> bool:
    """Whether a line of a stream holds a part of the answer."""
    data = line.removeprefix("data: ")
    if not data.startswith("{"):
        return False
    return any(choice["delta"].get("content") for choice in json.loads(data).get("choices", []))


async def _asked(client: httpx.AsyncClient, body: Json) -> float:
    started = time.perf_counter()
    (await client.post("/v1/chat/completions", json=body)).raise_for_status()
    return time.perf_counter() - started


def _body(sides: Sides, content: Any) -> Json:
    messages = [{"role": "user", "content": content}]
    return {"model": sides.model, "messages": messages, "max_tokens": 16, "temperature": 0}


def _compared(seconds: dict[str, list[float]]) -> Json:
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    return medians | {"ratio": medians["smoothgate"] / medians["vllm"]}


def picture_uri(number: int, size: tuple[int, int] | None = None) -> str:
    """A data URI of `picture_file`."""
    return png_data_uri(picture_file(number, size))


def picture_file(number: int, size: tuple[int, int] | None = None) -> bytes:
    """A PNG of the sample with its own grain, so that no two pictures are the same; `size` is width and
    height, of the sample itself where there is none.
    """
    sample = Image.open(DEMO.samples / _SAMPLE).convert("RGB")
    pixels = np.asarray(sample.resize(size or sample.size)).astype(np.int16)
    grain = np.random.default_rng(abs(number)).integers(-2, 3, pixels.shape)
    return encode_png(Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8)))
