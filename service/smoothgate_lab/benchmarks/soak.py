"""The service under full load for long: lost requests, memory and latency (`smoothgate bench soak`)."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import psutil

from smoothgate_lab.benchmarks.serving_bench import picture_uri

Json = dict[str, Any]

QUESTION = "What digit is shown?"
# Small requests, so that a short run has enough of them for a 99th percentile.
_SMOOTHING = {"n_select": 32, "n_certify": 96}
# Width and height of the pictures; the last is larger than most canvases.
_SIZES = ((48, 48), (64, 64), (97, 31), (40, 120), (320, 240), (1280, 960))
_MIX = {"picture": 0.6, "stream": 0.2, "text": 0.15, "hostile": 0.05}
# Nearly as many values as a body may hold, in a field that no request has.
_HOSTILE = {"messages": [{"role": "user", "content": "Hello"}], "a": [[]] * 45_000}
_READ_EVERY_SECONDS = 5.0
# The pause after a lost request, so that clients do not flood a service that is down.
_PAUSE_SECONDS = 0.1
# Growth is measured after caches have filled and allocators have settled.
_WARM_UP_SHARE = 1 / 3


@dataclass(slots=True)
class _Seen:
    seconds: dict[str, list[float]] = field(default_factory=dict)
    statuses: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)

    def all_kinds(self) -> dict[str, list[float]]:
        """Seconds by kind, and of all kinds together."""
        together = [taken for each in self.seconds.values() for taken in each]
        return self.seconds | ({"all": together} if together else {})


def run(
    url: str, pid: int | None, seconds: float, clients: int, seed: int, step: Callable[[float], None]
) -> Json:
    """Load a service. Each client sends its next request when it has the answer to the last.

    Args:
        url: address of the service.
        pid: its process, whose resident memory is read, or None if it runs elsewhere.
        seconds: length of the run.
        clients: number of clients at a time.
        seed: seed of the order of the kinds of request.
        step: called with the seconds so far.

    Returns:
        `seconds`, `clients`, `requests`; `statuses` (count by status; what is hostile gets 422); `lost`
        (errors of at most 20 requests without an answer) and `lost_count`; `latency` by kind (`picture`,
        `stream`, `text`, `all`): `n`, `p50`, `p99` in seconds and `ratio`; `memory` (None without a pid):
        `start`, `end` in bytes (medians of the first and the last tenth after a warm-up of a third),
        `growth` (share), `slope` (bytes per hour).
    """
    seen = asyncio.run(_run(url, pid, seconds, clients, seed, step))
    return {
        "seconds": seconds,
        "clients": clients,
        "requests": sum(seen.statuses.values()) + len(seen.lost),
        "statuses": dict(seen.statuses),
        "lost": seen.lost[:20],
        "lost_count": len(seen.lost),
        "latency": {kind: _latency(taken) for kind, taken in sorted(seen.all_kinds().items())},
        "memory": _memory(seen.memory),
    }


async def _run(
    url: str, pid: int | None, seconds: float, clients: int, seed: int, step: Callable[[float], None]
) -> _Seen:
    seen = _Seen()
    started = time.monotonic()
    async with httpx.AsyncClient(base_url=url, timeout=120) as http, _watching(seen, pid, started, step):
        await asyncio.gather(
            *(_client(http, seen, started + seconds, seed * 10_000 + number) for number in range(clients))
        )
    return seen


@asynccontextmanager
async def _watching(
    seen: _Seen, pid: int | None, started: float, step: Callable[[float], None]
) -> AsyncIterator[None]:
    async def watch() -> None:
        while True:
            now = time.monotonic() - started
            step(now)
            if pid is not None:
                seen.memory.append((now, float(psutil.Process(pid).memory_info().rss)))
            await asyncio.sleep(_READ_EVERY_SECONDS)

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


async def _client(http: httpx.AsyncClient, seen: _Seen, ends: float, seed: int) -> None:
    rng = random.Random(seed)
    number = seed * 100_000
    while time.monotonic() < ends:
        number += 1
        (kind,) = rng.choices(list(_MIX), list(_MIX.values()))
        uri = await asyncio.to_thread(picture_uri, number, rng.choice(_SIZES))
        began = time.perf_counter()
        try:
            status = await _ask(http, kind, uri)
        except (httpx.HTTPError, ValueError, KeyError) as error:
            seen.lost.append(f"{kind}: {error!r}")
            await asyncio.sleep(_PAUSE_SECONDS)
            continue
        seen.statuses[str(status)] += 1
        if status == 200:
            seen.seconds.setdefault(kind, []).append(time.perf_counter() - began)


async def _ask(http: httpx.AsyncClient, kind: str, uri: str) -> int:
    """Send one request. Returns its status.

    Raises:
        httpx.HTTPError, ValueError, KeyError: there is no answer, it is incomplete, it has no certificate, or
            what is hostile was not refused.
    """
    if kind == "hostile":
        answer = await http.post("/v1/chat/completions", json=_HOSTILE)
        if answer.is_success:
            raise ValueError("a field that no request has was taken")
    elif kind == "text":
        answer = await http.post("/v1/chat", json={"message": "Hello", "max_tokens": 8})
    elif kind == "picture":
        body = {"message": QUESTION, "images": [uri], "smoothing": _SMOOTHING, "max_tokens": 16}
        answer = await http.post("/v1/chat", json=body)
        if answer.is_success and len(answer.json()["certificates"]) != 1:
            raise ValueError("no certificate")
    else:
        image = {"type": "image_url", "image_url": {"url": uri}}
        messages = [{"role": "user", "content": [image, {"type": "text", "text": QUESTION}]}]
        body = {"messages": messages, "smoothing": _SMOOTHING, "max_tokens": 16, "stream": True}
        answer = await http.post("/v1/chat/completions", json=body)
        if answer.is_success and not answer.text.endswith("data: [DONE]\n\n"):
            raise ValueError(f"a stream ended with {answer.text[-200:]!r}")
        if answer.is_success and '"certificates"' not in answer.text:
            raise ValueError("no certificate")
    if not answer.is_success:
        answer.json()["error"]["code"]
    return answer.status_code


def _latency(seconds: list[float]) -> Json:
    p50, p99 = np.percentile(seconds, [50, 99])
    return {"n": len(seconds), "p50": float(p50), "p99": float(p99), "ratio": float(p99 / p50)}


def _memory(readings: list[tuple[float, float]]) -> Json | None:
    steady = readings[int(len(readings) * _WARM_UP_SHARE) :]
    if len(steady) < 2:
        return None
    at, resident = np.array(steady).T
    tenth = max(1, len(steady) // 10)
    start, end = float(np.median(resident[:tenth])), float(np.median(resident[-tenth:]))
    slope = float(np.polyfit(at, resident, 1)[0]) * 3600
    return {"start": start, "end": end, "growth": end / start - 1, "slope": slope}
