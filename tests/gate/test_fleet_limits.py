"""Limits that hold for all replicas together: with a storage in memory, and with a real Redis."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio
from limits.aio.storage import MemoryStorage
from prometheus_client import REGISTRY

from smoothgate.errors import Overloaded, SmoothgateError
from smoothgate.gate import accounts
from smoothgate.gate.accounts import Account
from smoothgate.gate.fleet_limits import Counters, FleetLimits, redis_limits
from smoothgate.gate.gatekeeper import Gatekeeper
from smoothgate.gate.rate_limit import Bucket
from smoothgate_lab.evaluation.running_service import free_port
from tests.captured_log import captured
from tests.programs import program
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio


class Clock:
    """Seconds since the epoch, and those of a monotonic clock."""

    def __init__(self, now: float = 1_700_000_000.0 // 60 * 60) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Fleet:
    """Replicas with a bucket each, of one name."""

    def __init__(self, replicas: int, per_minute: int, counters: Counters | None = None) -> None:
        self.clock = Clock()
        counters = counters or MemoryStorage()
        self.buckets = [Bucket(per_minute, self.clock) for _ in range(replicas)]
        self.limits = [FleetLimits(counters, self.clock) for _ in range(replicas)]
        for limits, bucket in zip(self.limits, self.buckets, strict=True):
            limits.share("alice/requests", bucket)

    async def exchange(self) -> None:
        # Twice: whoever comes first hears of the others only then.
        for limits in (*self.limits, *self.limits):
            await limits.exchange()


async def test_what_one_replica_gave_is_missing_at_the_others() -> None:
    fleet = Fleet(3, 60)
    for bucket, amount in zip(fleet.buckets, (30, 20, 0), strict=True):
        assert bucket.take(amount) == 0
    fleet.buckets[2].take(1)
    await fleet.exchange()
    for bucket in fleet.buckets:
        assert bucket.take(10) == pytest.approx(1.0)  # 9 are left, and one a second comes
    fleet.clock.now += 1
    assert fleet.buckets[1].take(10) == 0


async def test_nothing_is_counted_twice_however_often_they_exchange() -> None:
    fleet = Fleet(2, 60)
    fleet.buckets[0].take(20)
    fleet.buckets[1].take(20)
    for _ in range(5):
        await fleet.exchange()
    for bucket in fleet.buckets:
        assert bucket.take(20) == 0
        assert bucket.take(1) > 0


async def test_what_was_given_back_is_there_again_everywhere() -> None:
    fleet = Fleet(2, 100)
    fleet.buckets[0].take(80)
    fleet.buckets[1].take(1)
    await fleet.exchange()
    fleet.buckets[0].correct(-50)
    await fleet.exchange()
    assert fleet.buckets[1].take(69) == 0
    assert fleet.buckets[1].take(2) > 0


async def test_the_end_of_a_minute_loses_nothing() -> None:
    fleet = Fleet(2, 600)
    fleet.clock.now += 58
    for bucket in fleet.buckets:
        bucket.take(100)
    await fleet.exchange()
    # Told in the last second of the minute by one of them, and heard by the other in the next minute.
    fleet.buckets[0].take(200)
    fleet.clock.now += 1
    await fleet.limits[0].exchange()
    fleet.clock.now += 2
    await fleet.exchange()
    # 600 - 400, and 10 a second for three seconds.
    assert fleet.buckets[1].take(231) > 0
    assert fleet.buckets[1].take(230) == 0


async def test_a_client_that_comes_to_another_replica_has_used_what_it_used_in_this_minute() -> None:
    fleet = Fleet(2, 60)
    fleet.buckets[0].take(60)
    await fleet.exchange()
    fleet.clock.now += 30
    assert fleet.buckets[1].take(1) == 0
    await fleet.exchange()
    assert fleet.buckets[1].take(1) == pytest.approx(2)
    # Where it came from, 30 of 60 have come back, and 1 was taken elsewhere.
    assert fleet.buckets[0].take(29) == 0
    assert fleet.buckets[0].take(1) > 0


async def test_an_account_that_nobody_uses_costs_nothing() -> None:
    class Counting(MemoryStorage):
        asked = 0

        async def get(self, key: str) -> int:
            self.asked += 1
            return await super().get(key)

    counting = Counting()
    fleet = Fleet(1, 60, counting)
    await fleet.exchange()
    assert counting.asked == 0
    fleet.buckets[0].take(1)
    await fleet.exchange()
    fleet.clock.now += 61
    before = counting.asked
    await fleet.exchange()
    assert counting.asked == before


async def test_without_its_storage_each_replica_counts_for_itself() -> None:
    class Away(MemoryStorage):
        away = True

        async def incr(self, key: str, expiry: float, amount: int = 1) -> int:
            if self.away:
                raise ConnectionError("nobody there")
            return await super().incr(key, expiry, amount)

    storage = Away()
    fleet = Fleet(2, 60, storage)
    name = "smoothgate_limits_failures_total"
    before = REGISTRY.get_sample_value(name) or 0
    for bucket in fleet.buckets:
        bucket.take(25)
    with captured() as lines:
        await fleet.exchange()
    assert (REGISTRY.get_sample_value(name) or 0) - before == 4
    said = [line for line in lines if "limits hold for this replica alone" in line["event"]]
    assert len(said) == 2, "once each"
    assert fleet.buckets[0].take(5) == 0
    storage.away = False
    await fleet.exchange()
    # What was taken meanwhile is told afterwards.
    assert fleet.buckets[1].take(6) > 0
    assert fleet.buckets[1].take(5) == 0


@pytest_asyncio.fixture
async def redis(tmp_path: Path) -> AsyncIterator[str]:
    """The URL of a Redis of this test's own."""
    # One program under two names: it is a server unless it is called redis-check-rdb.
    command = program("redis-server", "redis-check-rdb", package="the Debian package redis-tools")
    port = free_port()
    arguments = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    with (tmp_path / "log").open("w") as log:
        process = await asyncio.create_subprocess_exec(
            "redis-server", *arguments, executable=command, stdout=log
        )

    async def answers() -> bool:
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return True
        return False

    try:
        await eventually(answers)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        await process.wait()


def _gatekeepers(redis: str, folder: Path) -> tuple[Account, str, list[Gatekeeper]]:
    """Two, of one account, whose key comes with it. Services read and open files before they run, too."""
    account, key = accounts.new("alice", samples_per_minute=1000, requests_per_minute=10)
    accounts.save(folder / "accounts.json", [account])
    gates = [Gatekeeper(folder / "accounts.json", fleet=redis_limits(redis)) for _ in range(2)]
    return account, key, gates


async def test_two_gates_share_the_limits_of_an_account_in_a_redis(redis: str, tmp_path: Path) -> None:
    account, key, gates = await asyncio.to_thread(_gatekeepers, redis, tmp_path)
    fleets = [gate.fleet for gate in gates if gate.fleet is not None]
    first, second = gates
    try:
        for _ in range(6):
            first.charge(first.admit(key), 150)
        second.charge(second.admit(key), 1)
        for fleet in fleets:
            await fleet.exchange()
        with pytest.raises(Overloaded) as caught:
            second.charge(account, 900)
        assert caught.value.code == "samples_per_minute"
        assert caught.value.retry_after == pytest.approx(48, abs=2)
        second.charge(account, 50)
        # 7 of 10 requests are used up, and one comes back every six seconds.
        codes = [_refusal(second, key) for _ in range(9)]
        assert codes[0] is None
        assert codes.count("requests_per_minute") >= 4
    finally:
        for fleet in fleets:
            await fleet.aclose()


def _refusal(gate: Gatekeeper, key: str) -> str | None:
    try:
        gate.admit(key)
    except Overloaded as error:
        return error.code
    return None


async def test_a_gate_exchanges_by_itself_until_it_ends() -> None:
    storage, closed = MemoryStorage(), asyncio.Event()

    async def close() -> None:
        closed.set()

    limits = FleetLimits(storage, close=close)
    bucket = Bucket(60)
    limits.share("alice/requests", bucket)
    bucket.take(7)
    running = asyncio.create_task(limits.run())
    try:
        minute = int(time.time() // 60)
        keys = [f"smoothgate/alice/requests/{each}" for each in (minute, minute + 1)]

        async def told() -> bool:
            return sum([await storage.get(key) for key in keys]) == 7

        await eventually(told, 10)
    finally:
        running.cancel()
        await asyncio.wait([running])
    assert closed.is_set()


@pytest.mark.parametrize("url", ["redis.example.com", "http://redis:6379"])
async def test_what_is_no_redis_is_refused_without_telling_what_was_given(url: str) -> None:
    with pytest.raises(SmoothgateError) as caught:
        await asyncio.to_thread(redis_limits, url)
    assert caught.value.code == "bad_limits_url"
    assert url not in caught.value.message
