"""One run: everything sent by several clients, every answer checked, and the service itself in the end."""

import asyncio
import base64
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import httpx
import numpy as np

from smoothgate.bundled import DEMO
from tests import metric_lines, processes
from tests.fuzz.bystander import standing_by
from tests.fuzz.checks import Checks
from tests.fuzz.request import Json, Raw, Request
from tests.fuzz.sending import SECONDS, Answer, Lost, send
from tests.fuzz.shrink import shrunk
from tests.fuzz.stream import stream
from tests.waiting import eventually

MOST_GROWTH = 0.05

#: What the demo model says of the sample picture.
SEVEN = "The digit is 7."

#: A bystander waits at most so long, for a probe and for an answer.
MOST_WAIT = {"probe": 2.0, "answer": 30.0}

# Caches fill and allocators settle before growth means anything: in so many requests, or in the first half of
# a run of fewer than twice as many.
_WARM_UP_REQUESTS = 3000
_READ_EVERY_SECONDS = 1.0
_AGAIN_SECONDS = 30.0
_RESTARTS = "smoothgate_engine_restarts_total"
_SHOWN_BODY = 1000


@dataclass(slots=True)
class _Failure:
    problem: str
    request: Request | Raw
    answer: Answer | None
    count: int = 1


@dataclass(slots=True)
class _Seen:
    done: int = 0
    statuses: dict[str, Counter[str]] = field(default_factory=dict)
    routes: dict[str, Counter[str]] = field(default_factory=dict)
    failures: dict[str, _Failure] = field(default_factory=dict)
    memory: list[tuple[int, dict[str, int]]] = field(default_factory=list)


async def run(
    url: str,
    count: int,
    seed: int,
    *,
    clients: int = 8,
    pid: int | None = None,
    patient: bool = True,
    answer: str | None = SEVEN,
    step: Callable[[int], None] = lambda done: None,
) -> Json:
    """Send mutated requests to a service.

    Args:
        url: of the service.
        count: how many requests.
        seed: of all of them.
        clients: at a time.
        pid: of the service, whose memory and whose children's is read; None where it is not to be.
        patient: also send what is answered only when the time for a body is over.
        answer: what its model says of the sample picture; None: nobody knows.
        step: called with the requests so far.

    Returns:
        `requests`, `seed`, `clients`, `seconds`, `per_second`.
        `statuses`: by source, a count by status (`lost`: an answer was due and did not come whole; `cut`: by
        the client, which waits for none).
        `routes`: the same by method and path, as the service describes them.
        `failures`: a list of `problem`, `count` (of its kind), `source`, `what`, `shown` (a reproduction,
        shrunk), `request` (the same in full, bytes in base64), `status` and `body` (of the answer, cut; None
        where there was none).
        `memory`: by process (`service`, `engine`) `start` and `end` in bytes (medians of the tenth of the
        readings after the warm-up that came first, and of the last) and `growth` (a share); None without
        a pid.
        `bystander`: a client that behaves asks all the while; `probe` and `answer`: its slowest, in seconds;
        `refused`: statuses other than 200.
        `restarts` of the engine during the run.
        `well`: whether the service was ready in the end, certified the sample picture, and gave the answer.
        `passed`.
    """
    async with httpx.AsyncClient(base_url=url, timeout=SECONDS) as client:
        document = (await client.get("/openapi.json")).json()
        restarts = await _restarts(client)
        checks, seen = Checks(document), _Seen()
        todo: asyncio.Queue[Request | Raw | None] = asyncio.Queue(4 * clients)
        with standing_by(url) as bystander:
            started = time.perf_counter()
            async with _beside(_watch(seen, pid, step)):
                await asyncio.gather(
                    _fill(todo, stream(document, count, seed, patient=patient), clients),
                    *(_client(todo, client, checks, seen) for _ in range(clients)),
                )
            step(seen.done)
            seconds = time.perf_counter() - started
        well = await _is_well(client, answer)
        restarts = await _restarts(client) - restarts
        failures = [await _reported(failure, client, checks) for failure in seen.failures.values()]
    measured = None if pid is None else growth(seen.memory, count)
    grew = any(part["growth"] > MOST_GROWTH for part in (measured or {}).values())
    in_time = all(bystander.waited[name] <= most for name, most in MOST_WAIT.items())
    return {
        "requests": seen.done,
        "seed": seed,
        "clients": clients,
        "seconds": seconds,
        "per_second": seen.done / seconds,
        "statuses": {source: dict(found) for source, found in sorted(seen.statuses.items())},
        "routes": {route: dict(found) for route, found in sorted(seen.routes.items())},
        "failures": failures,
        "memory": measured,
        "bystander": bystander.waited | {"refused": bystander.refused},
        "restarts": restarts,
        "well": well,
        "passed": well and in_time and not (bystander.refused or failures or restarts or grew),
    }


async def _fill(
    todo: "asyncio.Queue[Request | Raw | None]", requests: Iterator[Request | Raw], clients: int
) -> None:
    """Put the requests into the queue, and one None per client behind them."""
    while (request := await asyncio.to_thread(next, requests, None)) is not None:
        await todo.put(request)
    for _ in range(clients):
        await todo.put(None)


async def _client(
    todo: "asyncio.Queue[Request | Raw | None]", client: httpx.AsyncClient, checks: Checks, seen: _Seen
) -> None:
    while (request := await todo.get()) is not None:
        status, problem, answer = await _tried(request, client, checks)
        seen.done += 1
        seen.statuses.setdefault(request.source, Counter())[status] += 1
        if isinstance(request, Request) and (route := checks.route(request)) is not None:
            seen.routes.setdefault(f"{request.method} {route}", Counter())[status] += 1
        if problem is not None:
            kind = f"{problem} {_where(request)} {answer and answer.body[:80]!r}"
            if kind in seen.failures:
                seen.failures[kind].count += 1
            else:
                seen.failures[kind] = _Failure(problem, request, answer)


async def _tried(
    request: Request | Raw, client: httpx.AsyncClient, checks: Checks
) -> tuple[str, str | None, Answer | None]:
    """The status, what is wrong, and the answer."""
    try:
        answer = await send(request, client)
    except Lost as error:
        return "lost", f"lost: {error}", None
    if answer is None:
        return "cut", None, None
    return str(answer.status), checks.problem(request, answer), answer


def _where(request: Request | Raw) -> str:
    return f"{request.method} {request.path[:40]}" if isinstance(request, Request) else request.what


async def _reported(failure: _Failure, client: httpx.AsyncClient, checks: Checks) -> Json:
    async def fails(request: Request | Raw) -> bool:
        return (await _tried(request, client, checks))[1] == failure.problem

    request = await shrunk(failure.request, fails)
    answer = failure.answer
    return {
        "problem": failure.problem,
        "count": failure.count,
        "source": request.source,
        "what": request.what,
        "shown": request.shown(),
        "request": request.as_json(),
        "status": answer.status if answer else None,
        "body": answer.body[:_SHOWN_BODY].decode(errors="replace") if answer else None,
    }


async def _watch(seen: _Seen, pid: int | None, step: Callable[[int], None]) -> None:
    while True:
        step(seen.done)
        if pid is not None:
            engine = sum(map(processes.resident, processes.descendants(pid)))
            seen.memory.append((seen.done, {"service": processes.resident(pid), "engine": engine}))
        await asyncio.sleep(_READ_EVERY_SECONDS)


@asynccontextmanager
async def _beside(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Do this meanwhile. Where it fails, so does the run."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def growth(readings: list[tuple[int, dict[str, int]]], count: int) -> Json:
    """`memory` of `run`, from readings of a run of so many requests: requests so far, bytes by process."""
    steady = [resident for done, resident in readings if done >= min(_WARM_UP_REQUESTS, count / 2)]
    tenth = max(1, len(steady) // 10)
    measured: Json = {}
    for part in steady[0] if steady else ():
        start, end = (
            float(np.median([each[part] for each in some])) for some in (steady[:tenth], steady[-tenth:])
        )
        measured[part] = {"start": start, "end": end, "growth": end / start - 1}
    return measured


async def _restarts(client: httpx.AsyncClient) -> int:
    return int(metric_lines.total((await client.get("/metrics")).text, _RESTARTS))


async def _is_ready(client: httpx.AsyncClient) -> bool:
    return (await client.get("/health/ready")).is_success


async def _is_well(client: httpx.AsyncClient, expected: str | None) -> bool:
    """Ready, at the latest after a while, and what it knew it still knows."""
    picture = base64.b64encode((DEMO.samples / "seven.png").read_bytes()).decode()
    asked = {
        "message": "What digit is shown?",
        "images": [f"data:image/png;base64,{picture}"],
        "temperature": 0,
        "smoothing": {"n_select": 64, "n_certify": 192},
    }
    try:
        await eventually(lambda: _is_ready(client), _AGAIN_SECONDS)
        answer = (await client.post("/v1/chat", json=asked)).json()
        return len(answer["certificates"]) == 1 and expected in (None, answer["answer"])
    except (httpx.HTTPError, TimeoutError, json.JSONDecodeError, KeyError):
        return False
