"""Who is let in: keys, limits, draining; around a small app, since nothing here reaches a route."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from prometheus_client import REGISTRY
from starlette.types import Receive, Scope, Send

from smoothgate.errors import BodyTimedOut, Overloaded, TooLarge
from smoothgate.gate import accounts
from smoothgate.gate.gatekeeper import Gatekeeper
from smoothgate.gate.in_flight import InFlight
from smoothgate.gate.rate_limit import Bucket
from smoothgate.http.access_middleware import Access
from smoothgate.http.body_limit_middleware import BodyLimit
from smoothgate.http.request_middleware import Context
from smoothgate.http.sse import event
from tests.captured_log import captured
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio


class Gate:
    """Context and Access around an app that does what `answer` does."""

    def __init__(self, accounts: Path | None, most: int = 256) -> None:
        self.in_flight = InFlight(most)
        # The file is read again as soon as it changes.
        self.gatekeeper = Gatekeeper(accounts, refresh_seconds=0)
        self.answer: Callable[[Scope, Receive, Send], Any] = _ok
        self.seen: list[Scope] = []
        inner = Access(self._app, self.gatekeeper, self.in_flight)
        transport = httpx.ASGITransport(Context(inner, self.in_flight), raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://gate")

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.seen.append(scope)
        await self.answer(scope, receive, send)


async def _ok(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def keys() -> dict[str, str]:
    return {}


@pytest.fixture
def file(tmp_path: Path, keys: dict[str, str]) -> Path:
    made = []
    for name, requests, samples in (("alice", None, None), ("bob", 3, 1000)):
        account, keys[name] = accounts.new(name, requests_per_minute=requests, samples_per_minute=samples)
        made.append(account)
    path = tmp_path / "accounts.json"
    accounts.save(path, made)
    return path


@pytest_asyncio.fixture
async def gate(file: Path) -> AsyncIterator[Gate]:
    gate = Gate(file, most=4)
    async with gate.http:
        yield gate


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    "path", ["/", "/v1/chat", "/v1/models", "/metrics", "/docs", "/openapi.json", "/nowhere"]
)
async def test_every_path_asks_for_a_key(gate: Gate, keys: dict[str, str], path: str) -> None:
    wrong = [
        {},
        _bearer("sg-wrong"),
        _bearer(""),
        {"Authorization": f"Basic {keys['alice']}"},
        {"X-Api-Key": "sg-wrong"},
        _bearer("sg-wrong") | {"X-Api-Key": keys["alice"]},
    ]
    for headers in wrong:
        refused = await gate.http.get(path, headers=headers)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        assert set(refused.json()["error"]) == {"message", "type", "param", "code"}
        assert refused.json()["error"]["code"] == "invalid_api_key"
        assert len(refused.headers["x-request-id"]) == 32
    assert not gate.seen
    assert (await gate.http.get(path, headers=_bearer(keys["alice"]))).status_code == 200
    # As Anthropic's clients send it.
    assert (await gate.http.get(path, headers={"X-Api-Key": keys["alice"]})).status_code == 200
    assert [scope["state"]["account"].name for scope in gate.seen] == ["alice", "alice"]


async def test_what_is_open_is_listed(gate: Gate) -> None:
    for path in ("/health/live", "/health/ready", "/health", "/healthz", "/ping", "/.well-known/jwks.json"):
        assert (await gate.http.get(path)).status_code == 200
    for path in (
        "/health/live/",
        "/health/",
        "//health/live",
        "/HEALTH/LIVE",
        "/health/live/../../v1/models",
    ):
        assert (await gate.http.get(path)).status_code == 401, path


async def test_a_key_shows_in_no_log(gate: Gate, keys: dict[str, str]) -> None:
    with captured() as lines:
        await gate.http.get("/v1/models", headers=_bearer(keys["alice"]))
        await gate.http.get("/v1/models", headers=_bearer("sg-not-a-key"))
    said = str(lines)
    assert "alice" in said
    assert keys["alice"] not in said
    assert "sg-not-a-key" not in said


async def test_a_key_works_as_soon_as_the_file_has_it(gate: Gate, keys: dict[str, str], file: Path) -> None:
    account, key = accounts.new("carol")
    assert (await gate.http.get("/", headers=_bearer(key))).status_code == 401
    await asyncio.to_thread(accounts.save, file, [account])
    assert (await gate.http.get("/", headers=_bearer(key))).status_code == 200
    assert (await gate.http.get("/", headers=_bearer(keys["alice"]))).status_code == 401
    file.write_text("nonsense")  # noqa: ASYNC240
    assert (await gate.http.get("/", headers=_bearer(key))).status_code == 200


async def test_requests_per_minute(gate: Gate, keys: dict[str, str]) -> None:
    statuses = [(await gate.http.get("/", headers=_bearer(keys["bob"]))).status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    refused = await gate.http.get("/", headers=_bearer(keys["bob"]))
    assert refused.json()["error"]["code"] == "requests_per_minute"
    assert 20 <= int(refused.headers["retry-after"]) <= 30  # with up to half as long again
    assert (await gate.http.get("/", headers=_bearer(keys["alice"]))).status_code == 200


async def test_a_changed_file_gives_nobody_a_new_minute(gate: Gate, keys: dict[str, str], file: Path) -> None:
    for _ in range(3):
        await gate.http.get("/", headers=_bearer(keys["bob"]))
    account, key = accounts.new("carol")
    await asyncio.to_thread(accounts.save, file, [*accounts.load(file), account])
    assert (await gate.http.get("/", headers=_bearer(key))).status_code == 200
    assert (await gate.http.get("/", headers=_bearer(keys["bob"]))).status_code == 429


async def test_samples_per_minute(gate: Gate, keys: dict[str, str]) -> None:
    alice, bob = (gate.gatekeeper.admit(keys[name]) for name in ("alice", "bob"))
    gate.gatekeeper.charge(bob, 900)
    with pytest.raises(Overloaded) as caught:
        gate.gatekeeper.charge(bob, 500)
    assert caught.value.code == "samples_per_minute"
    assert caught.value.retry_after == pytest.approx(24, abs=1)
    for _ in range(10):
        gate.gatekeeper.charge(alice, 10**6)
        gate.gatekeeper.charge(None, 10**6)


async def test_concurrent_requests(tmp_path: Path) -> None:
    account, key = accounts.new("carol", concurrent_requests=2)
    await asyncio.to_thread(accounts.save, tmp_path / "two.json", [account])
    gate = await asyncio.to_thread(Gate, tmp_path / "two.json")
    go = asyncio.Event()

    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        await go.wait()
        await _ok(scope, receive, send)

    gate.answer = wait
    async with gate.http:
        two = [asyncio.create_task(gate.http.get("/", headers=_bearer(key))) for _ in range(2)]
        await eventually(lambda: len(gate.seen) == 2)
        refused = await gate.http.get("/", headers=_bearer(key))
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "concurrent_requests")
        go.set()
        assert [(await one).status_code for one in two] == [200, 200]
        assert (await gate.http.get("/", headers=_bearer(key))).status_code == 200


async def test_a_bucket_fills_evenly_and_gives_a_large_request_when_full() -> None:
    now = [100.0]
    bucket = Bucket(60, clock=lambda: now[0])
    assert [bucket.take(30), bucket.take(30)] == [0, 0]
    assert bucket.take(10) == pytest.approx(10)
    now[0] += 10
    assert bucket.take(10) == 0
    now[0] += 3600
    assert bucket.take(150) == 0, "more than it holds, but it is full"
    assert bucket.take(1) == pytest.approx(91)


async def test_too_many_at_a_time_are_refused(gate: Gate, keys: dict[str, str]) -> None:
    go = asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await go.wait()
        await _ok(scope, receive, send)

    gate.answer = slow
    asked = [asyncio.create_task(gate.http.get("/", headers=_bearer(keys["alice"]))) for _ in range(4)]
    await eventually(lambda: gate.in_flight.count == 4)
    refused = await gate.http.get("/", headers=_bearer(keys["alice"]))
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_requests")
    assert _in_flight() == 4
    go.set()
    assert {(await each).status_code for each in asked} == {200}
    assert _in_flight() == 0


def _in_flight() -> float | None:
    return REGISTRY.get_sample_value("smoothgate_requests_in_flight")


async def test_while_draining_new_requests_get_503_and_old_ones_their_answer(
    gate: Gate, keys: dict[str, str]
) -> None:
    go = asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/slow":
            await go.wait()
        await _ok(scope, receive, send)

    gate.answer = slow
    old = asyncio.create_task(gate.http.get("/slow", headers=_bearer(keys["alice"])))
    await eventually(lambda: gate.in_flight.count == 1)
    gate.in_flight.draining = True
    ending = asyncio.create_task(gate.in_flight.end(5))
    refused = await gate.http.get("/", headers=_bearer(keys["alice"]))
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
    assert int(refused.headers["retry-after"]) >= 1
    assert (await gate.http.get("/health/live")).status_code == 200
    assert (await gate.http.get("/metrics", headers=_bearer(keys["alice"]))).status_code == 200
    assert not ending.done()
    go.set()
    assert (await old).status_code == 200
    await asyncio.wait_for(ending, 1)


async def test_what_takes_longer_than_the_shutdown_may_ends_with_an_error(
    gate: Gate, keys: dict[str, str]
) -> None:
    async def never(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/stream":
            headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send(
                {"type": "http.response.body", "body": event({"delta": "a"}).encode(), "more_body": True}
            )
        await asyncio.sleep(600)

    gate.answer = never
    headers = _bearer(keys["alice"])
    whole, stream = (asyncio.create_task(gate.http.get(path, headers=headers)) for path in ("/", "/stream"))
    await eventually(lambda: len(gate.seen) == 2)
    await gate.in_flight.end(0.05)
    assert (await whole).status_code == 503
    assert (await whole).json()["error"]["code"] == "draining"
    lines = [line for line in (await stream).text.splitlines() if line]
    assert lines[0] == 'data: {"delta": "a"}'
    assert '"draining"' in lines[-1]


async def test_a_failure_of_our_own_is_a_plain_500_with_an_id(gate: Gate, keys: dict[str, str]) -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("a secret")

    gate.answer = fails
    response = await gate.http.get("/", headers=_bearer(keys["alice"]) | {"X-Request-Id": "mine.1"})
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert "secret" not in response.text
    assert response.headers["x-request-id"] == "mine.1"


async def test_without_accounts_whoever_connects_may_ask() -> None:
    gate = Gate(None)
    async with gate.http:
        assert (await gate.http.get("/v1/models")).status_code == 200
    assert gate.seen[0]["state"]["account"] is None


async def test_a_body_that_trickles_or_swells_is_given_up() -> None:
    pieces = 0

    async def receive() -> dict[str, Any]:
        nonlocal pieces
        pieces += 1
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b"x" * 10, "more_body": True}

    async def reads(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass

    with pytest.raises(BodyTimedOut):
        await asyncio.wait_for(BodyLimit(reads, 10**6, 0.1, 10**6)({"type": "http"}, receive, _nowhere), 5)
    pieces = 0
    with pytest.raises(TooLarge):
        await BodyLimit(reads, 95, 5, 10**6)({"type": "http"}, receive, _nowhere)
    assert pieces == 10


async def test_a_body_in_time_sets_no_limit_to_what_follows() -> None:
    messages = [
        {"type": "http.request", "body": b"x", "more_body": True},
        {"type": "http.request", "body": b"x", "more_body": False},
    ]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop(0)
        await asyncio.sleep(0.2)
        return {"type": "http.disconnect"}

    async def reads(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    await BodyLimit(reads, 100, 0.1, 10**6)({"type": "http"}, receive, _nowhere)


async def _nowhere(message: Any) -> None:
    pass


async def test_the_bodies_of_all_requests_together_are_limited() -> None:
    go = asyncio.Event()

    async def reads(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await go.wait()

    async def receive() -> Any:
        return {"type": "http.request", "body": b"x" * 60, "more_body": False}

    def held() -> float:
        return REGISTRY.get_sample_value("smoothgate_body_bytes") or 0.0

    limit = BodyLimit(reads, 100, 5, 50)
    alone = asyncio.create_task(limit({"type": "http"}, receive, _nowhere))
    await eventually(lambda: held() == 60)
    with pytest.raises(Overloaded) as caught:
        await limit({"type": "http"}, receive, _nowhere)
    assert caught.value.code == "too_many_bytes"
    assert held() == 60
    go.set()
    await alone
    assert held() == 0
    await limit({"type": "http"}, receive, _nowhere)
