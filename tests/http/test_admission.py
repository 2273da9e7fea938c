"""Room at the sampler before anything is decoded, fewer samples under load, and many clients at a time."""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from smoothgate.errors import Overloaded
from smoothgate.gate import accounts
from smoothgate.gate.admission import Admission
from smoothgate.sampling.sampler import Sampler
from smoothgate.sampling.smoother import Smoother
from tests.fake_vllm import FakeVllm
from tests.quick_gate import OpenGate
from tests.whole_service import Gate, data_uri

BROKEN = "data:image/png;base64,AAAA"


@contextmanager
def _under_load(gate: Gate) -> Iterator[None]:
    """Thousands of samples wait while the block runs."""
    before = gate.metric("smoothgate_work_dropped_total")
    gone = threading.Event()

    async def ask() -> None:
        body = {"images": [data_uri("two.png")], "smoothing": {"n_select": 64, "n_certify": 16_000}}
        async with httpx.AsyncClient(base_url=gate.url, timeout=120) as http:
            asking = asyncio.create_task(http.post("/v1/certify", json=body))
            await asyncio.to_thread(gone.wait)
            asking.cancel()

    thread = threading.Thread(target=asyncio.run, args=(ask(),))
    thread.start()
    try:
        _wait(lambda: gate.metric("smoothgate_queued_samples") > 8_000)
        yield
    finally:
        gone.set()
        thread.join()
        _wait(lambda: gate.metric("smoothgate_work_dropped_total") > before)
        assert gate.metric("smoothgate_reserved_work") == 0


def _wait(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_full_queue_refuses_before_an_image_is_looked_at(open_gate: OpenGate) -> None:
    gate = open_gate(max_queued_seconds=0.5)
    with _under_load(gate):
        refused = gate.ask("What digit is shown?", images=[BROKEN])
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert 1 <= int(refused.headers["retry-after"]) < 600
        assert gate.ask("Hello").status_code == 200, "text needs no room"
        assert gate.metric("smoothgate_queued_seconds") > 0.5
    assert gate.ask("What digit is shown?", images=[BROKEN]).status_code == 422


def test_a_request_alone_is_taken_however_long_it_takes(open_gate: OpenGate) -> None:
    gate = open_gate(max_queued_seconds=0.001)
    assert gate.ask("What digit is shown?", "seven.png").status_code == 200


@dataclass
class _Idle:
    """A sampler where nothing waits."""

    queued_work: float = 0.0
    work_per_second: float = 100.0


def test_admitted_samples_count_while_their_images_are_decoded(quick_gate: Gate) -> None:
    admission, sampler = Admission(1.0), _Idle()
    with (
        admission.reserved(sampler, 80),
        pytest.raises(Overloaded),
        admission.reserved(sampler, 80),
    ):
        pass
    with admission.reserved(sampler, 80):
        assert quick_gate.metric("smoothgate_reserved_work") == 80
    assert admission.seconds(sampler) == 0


def test_a_request_needs_room_for_its_whole_work_once_its_size_is_known() -> None:
    admission, sampler = Admission(1.0), _Idle()
    with admission.reserved(sampler, 40) as other, admission.reserved(sampler, 40) as hold:
        with pytest.raises(Overloaded) as caught:
            hold(80)
        assert caught.value.code == "queue_full"
        assert admission.seconds(sampler) == pytest.approx(0.8), "what it holds has not changed"
        hold(20)
        assert admission.seconds(sampler) == pytest.approx(0.6)
        other(60)
        hold(40)
    with admission.reserved(sampler, 40) as hold:
        hold(4000)  # alone
    assert admission.seconds(sampler) == 0


def test_a_vote_keeps_its_room_until_it_is_queued(
    open_gate: OpenGate, vllm: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise two votes are admitted that together wait for too long."""
    vote = {"certify": "answer", "sigma": 0.5, "n_select": 16, "n_certify": 200}
    queueing, go_on, answers = threading.Event(), threading.Event(), threading.Event()
    relay = Smoother.relay

    async def relay_later(*args: Any, **fields: Any) -> Any:
        queueing.set()
        await asyncio.to_thread(go_on.wait, 60)
        return await relay(*args, **fields)

    def answer_later(number: int) -> str:
        answers.wait(60)
        return "7"

    monkeypatch.setattr(Smoother, "relay", relay_later)
    vllm.answers = answer_later
    gate = open_gate(max_queued_seconds=0.001)
    first: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: first.append(gate.ask("?", "seven.png", smoothing=vote)))
    asking.start()
    try:
        assert queueing.wait(60)
        assert gate.metric("smoothgate_reserved_work") == 216
        refused = gate.ask("?", "seven.png", smoothing=vote)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        go_on.set()
        _wait(lambda: gate.metric("smoothgate_reserved_work") == 0)
        assert gate.metric("smoothgate_queued_work") > 0, "it is counted once, there"
    finally:
        go_on.set()
        answers.set()
        asking.join()
    assert first[0].status_code == 200


def test_a_large_picture_is_charged_by_its_size(
    open_gate: OpenGate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account, key = accounts.new("alice", samples_per_minute=1000)
    accounts.save(tmp_path / "accounts.json", [account])
    gate = open_gate(accounts=tmp_path / "accounts.json")
    gate.http.headers["Authorization"] = f"Bearer {key}"
    sampler = gate.service.smoother.loaded.sampler
    canvas = gate.service.smoother.loaded.encoder.adapter.canvas_shape
    assert canvas is not None
    monkeypatch.setattr(sampler._queue, "_typical_values", math.prod(canvas) // 64)
    assert gate.ask("What digit is shown?", "seven.png").status_code == 200
    assert gate.metric("smoothgate_reserved_work") == 0
    refused = gate.ask("What digit is shown?", "seven.png")
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "samples_per_minute")
    debt = 64 * (16 + 64) - 1000
    # Half as much again at most: clients are not to come back all at once.
    assert 150 < int(refused.headers["retry-after"]) <= 1.5 * (debt + 80) * 60 / 1000 + 1


def test_work_is_that_of_samples_of_typical_size(quick_gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    smoother = quick_gate.service.smoother.loaded
    canvas = smoother.encoder.adapter.canvas_shape
    assert canvas is not None
    assert smoother.encoder.adapter.canvas_values(700, 300) == math.prod(canvas)
    before = quick_gate.metric("smoothgate_work_total"), quick_gate.metric("smoothgate_samples_total")
    monkeypatch.setattr(smoother.sampler._queue, "_typical_values", math.prod(canvas) // 4)
    assert quick_gate.ask("What digit is shown?", "seven.png").status_code == 200
    after = quick_gate.metric("smoothgate_work_total"), quick_gate.metric("smoothgate_samples_total")
    assert after[0] - before[0] == 4 * (after[1] - before[1]) > 0
    assert quick_gate.metric("smoothgate_queued_work") == 0


def test_under_load_the_default_budget_steps_down_and_the_certificate_says_so(
    open_gate: OpenGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = open_gate(degrade=(96, 48), max_queued_seconds=30.0, n_certify=128)

    def budget(waiting: float, **smoothing: Any) -> tuple[int, int | None]:
        monkeypatch.setattr(Admission, "seconds", lambda self, sampler, more=0: waiting)
        answer = gate.ask("What digit is shown?", "two.png", smoothing=smoothing).json()
        (certificate,) = answer["certificates"]
        return certificate["noise"]["budget"], certificate["noise"]["degraded_from"]

    counted = 'smoothgate_degraded_requests_total{n_certify="48"}'
    before = gate.metric(counted)
    assert budget(9.9) == (128, None)
    assert budget(10.0) == (96, 128)
    assert budget(20.0) == (48, 128)
    assert gate.metric(counted) == before + 1
    # A budget that was asked for stays, and so does one whose lesser could not certify anything.
    assert budget(25.0, n_certify=100) == (100, None)
    assert budget(25.0, eps=[0.5], alpha=1e-5) == (128, None)


def test_samples_per_minute_are_charged_before_an_image_is_looked_at(
    open_gate: OpenGate, tmp_path: Path
) -> None:
    account, key = accounts.new("alice", samples_per_minute=90)
    accounts.save(tmp_path / "accounts.json", [account])
    gate = open_gate(accounts=tmp_path / "accounts.json")
    gate.http.headers["Authorization"] = f"Bearer {key}"
    assert gate.ask("What digit is shown?", "seven.png").status_code == 200
    refused = gate.ask("What digit is shown?", images=[BROKEN])
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "samples_per_minute")
    assert gate.ask("Hello").status_code == 200


def test_two_hundred_clients_at_a_time_all_get_an_answer(open_gate: OpenGate) -> None:
    gate = open_gate(cache_mib=16, decode_timeout_seconds=60)
    gate.ask("What digit is shown?", "seven.png")  # the result that all others get

    async def ask_all() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=gate.url, timeout=120, limits=limits) as http:
            return await asyncio.gather(*(http.post("/v1/chat", json=_body(number)) for number in range(200)))

    answers = asyncio.run(ask_all())
    assert {answer.text for answer in answers if answer.status_code != 200} == set()
    assert len({answer.json()["id"] for answer in answers}) == 200
    assert gate.metric("smoothgate_requests_in_flight") == 0


def _body(number: int) -> dict[str, Any]:
    """Every fourth client sends a picture."""
    return {"message": "Hello", "images": [data_uri("seven.png")] if number % 4 == 0 else []}


def test_a_canary_that_drifts_takes_the_service_out_of_rotation(open_gate: OpenGate) -> None:
    gate = open_gate(canary_seconds=300, canary_tolerance=1e-6, ready=False)
    _wait(lambda: "score" in gate.http.get("/health/ready").json()["problems"].get("canary", ""))
    assert gate.http.get("/health/ready").status_code == 503
    assert gate.metric("smoothgate_ready") == 0
    answer = gate.ask("What digit is shown?", "seven.png")
    assert answer.status_code == 200, "who comes all the same is answered"


def test_a_canary_in_tolerance_makes_the_service_ready(open_gate: OpenGate) -> None:
    gate = open_gate(canary_seconds=300)
    assert gate.metric("smoothgate_ready") == 1
    assert gate.metric('smoothgate_canaries_total{outcome="ok"}') >= 1
    assert 0.9 < gate.metric("smoothgate_canary_score") <= 1


def test_a_sampler_that_hangs_is_not_ready(open_gate: OpenGate, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = open_gate()
    with _under_load(gate):
        assert gate.http.get("/health/ready").status_code == 200
        monkeypatch.setattr(Sampler, "stalled_seconds", property(lambda self: 31.0))
        assert gate.http.get("/health/ready").json()["problems"] == {"sampler": "stalled"}
        refused = gate.ask("What digit is shown?", "seven.png")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
