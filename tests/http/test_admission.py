"""Room at the sampler is taken before anything is decoded; the ladder; many clients at a time."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from smoothgate.errors import EngineFailed, Overloaded
from smoothgate.gate.accounts import new
from smoothgate.http.access import Gatekeeper
from tests.whole_service import FEW, Gate, data_uri

pytestmark = pytest.mark.engine

BROKEN = "data:image/png;base64,AAAA"


@contextmanager
def _under_load(gate: Gate) -> Iterator[None]:
    """Thousands of samples wait while the block runs."""
    before = gate.metric("smoothgate_samples_dropped_total")
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
        _wait(lambda: gate.metric("smoothgate_samples_dropped_total") > before)
        assert gate.metric("smoothgate_reserved_samples") == 0


def _wait(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_full_queue_refuses_before_an_image_is_looked_at(gate: Gate, settings: Callable[..., None]) -> None:
    settings(max_queued_seconds=0.5)
    with _under_load(gate):
        refused = gate.ask("What digit is shown?", images=[BROKEN])
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert 1 <= int(refused.headers["retry-after"]) < 600
        assert gate.ask("Hello", max_tokens=2).status_code == 200, "text needs no room"
        assert gate.metric("smoothgate_queued_seconds") > 0.5
    assert gate.ask("What digit is shown?", images=[BROKEN]).status_code == 422


def test_a_request_alone_is_taken_however_long_it_takes(gate: Gate, settings: Callable[..., None]) -> None:
    settings(max_queued_seconds=0.001)
    assert gate.ask("What digit is shown?", "seven.png").status_code == 200


def test_admitted_samples_count_while_their_images_are_decoded(gate: Gate) -> None:
    sampler, admission = gate.smoother.sampler, gate.runtime.admission
    limit = gate.runtime.settings.model_copy(update={"max_queued_seconds": 1.0})
    many = round(0.8 * sampler.samples_per_second)
    with (
        admission.reserved(sampler, many, limit),
        pytest.raises(Overloaded),
        admission.reserved(sampler, many, limit),
    ):
        pass
    with admission.reserved(sampler, many, limit):
        assert gate.metric("smoothgate_reserved_samples") == many
    assert admission.seconds(sampler) == 0


def test_under_load_the_default_budget_steps_down_and_the_certificate_says_so(
    gate: Gate, settings: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings(degrade=(256, 128), max_queued_seconds=30.0, n_certify=512)
    ask = {"n_select": 32}

    def budget(waiting: float, smoothing: dict[str, Any] = ask) -> tuple[int, int | None]:
        monkeypatch.setattr(gate.runtime.admission, "seconds", lambda sampler, more=0: waiting)
        (certificate,) = gate.ask("What digit is shown?", "two.png", smoothing=smoothing).json()[
            "certificates"
        ]
        return certificate["noise"]["budget"], certificate["noise"]["degraded_from"]

    counted = 'smoothgate_degraded_requests_total{n_certify="128"}'
    before = gate.metric(counted)
    assert budget(9.9) == (512, None)
    assert budget(10.0) == (256, 512)
    assert budget(20.0) == (128, 512)
    assert gate.metric(counted) == before + 1
    # A budget that was asked for stays, and so does one whose lesser could not certify anything.
    assert budget(25.0, FEW) == (256, None)
    assert budget(25.0, ask | {"alpha": 1e-12}) == (512, None)


def test_samples_per_minute_are_charged_before_an_image_is_looked_at(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    account, _ = new("alice", samples_per_minute=500)
    gatekeeper = gate.runtime.gatekeeper
    monkeypatch.setattr(Gatekeeper, "admit", lambda self, headers: account)
    assert gate.ask("What digit is shown?", "seven.png").status_code == 200
    refused = gate.ask("What digit is shown?", images=[BROKEN])
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "samples_per_minute")
    assert gate.ask("Hello", max_tokens=2).status_code == 200
    gatekeeper._buckets.clear()


def test_two_hundred_clients_at_a_time_all_get_an_answer(gate: Gate) -> None:
    def one(number: int) -> tuple[int, Any]:
        with httpx.Client(base_url=gate.url, timeout=120) as http:
            body: dict[str, Any] = {"message": "Hello", "max_tokens": 3}
            if number % 4 == 0:
                body |= {"images": [data_uri("seven.png")], "smoothing": {"n_select": 16, "n_certify": 50}}
            response = http.post("/v1/chat", json=body)
            return response.status_code, response.json()

    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(one, range(200)))
    assert {status for status, _ in answers} == {200}
    assert len({answer["id"] for _, answer in answers}) == 200
    assert gate.metric("smoothgate_requests_in_flight") == 0


def _send_canary(gate: Gate) -> None:
    canary = gate.runtime.canary
    assert canary is not None
    asyncio.run_coroutine_threadsafe(canary.send(), gate.runtime._beside[0].get_loop()).result(60)


def test_a_canary_whose_score_drifts_takes_the_service_out_of_rotation(
    gate: Gate, settings: Callable[..., None]
) -> None:
    counted = 'smoothgate_canaries_total{outcome="drift"}'
    before = gate.metric(counted)
    settings(canary_tolerance=1e-6)
    _send_canary(gate)
    ready = gate.http.get("/health/ready")
    assert ready.status_code == 503
    assert "score" in ready.json()["problems"]["canary"]
    assert gate.metric("smoothgate_ready") == 0
    assert gate.metric(counted) == before + 1
    assert gate.ask("What digit is shown?", "seven.png").status_code == 200, (
        "who comes all the same is answered"
    )
    settings(canary_tolerance=0.1)
    _send_canary(gate)
    assert gate.http.get("/health/ready").status_code == 200
    assert 0.9 < gate.metric("smoothgate_canary_score") <= 1


def test_a_canary_whose_feature_is_another_one_is_noticed(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = gate.runtime.canary
    assert canary is not None
    assert canary._first is not None
    first = canary._first
    monkeypatch.setattr(canary, "_first", -first)
    _send_canary(gate)
    assert "cosine" in gate.http.get("/health/ready").json()["problems"]["canary"]
    monkeypatch.setattr(canary, "_first", first)
    _send_canary(gate)
    assert gate.http.get("/health/ready").status_code == 200


def test_a_canary_that_the_engine_does_not_answer_is_noticed(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> None:
        raise EngineFailed("The engine failed with status 500.")

    with monkeypatch.context() as patch:
        patch.setattr(gate.runtime.engine.client, "chat", fails)
        _send_canary(gate)
    assert gate.http.get("/health/ready").json()["problems"] == {
        "canary": "The engine failed with status 500."
    }
    _send_canary(gate)
    assert gate.http.get("/health/ready").status_code == 200


def test_a_sampler_that_hangs_is_not_ready(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = gate.smoother.sampler
    with _under_load(gate):
        assert gate.http.get("/health/ready").status_code == 200
        monkeypatch.setattr(type(sampler), "stalled_seconds", property(lambda self: 31.0))
        assert gate.http.get("/health/ready").json()["problems"] == {"sampler": "stalled"}
        refused = gate.ask("What digit is shown?", "seven.png")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
