"""The answering flow: what ends with a request, what is measured, and what comes out as it is known."""

import asyncio
import base64
import hashlib
import io
import json
import threading
from collections.abc import Callable
from contextlib import aclosing

import pytest
import torch
from prometheus_client import REGISTRY

from smoothgate import metrics
from smoothgate.bundled import DEMO
from smoothgate.errors import EngineFailed, NotReady, PolicyNotMet, RequestTimedOut, SmoothgateError
from smoothgate.gate import answering
from smoothgate.gate.answering import (
    CERTIFYING,
    Accepted,
    Certificates,
    Event,
    Finished,
    ImageRequest,
    Piece,
    Turn,
)
from smoothgate.gate.build import build
from smoothgate.gate.served_model import checkpoint_digest
from smoothgate.gate.service import Service
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.schemas import SmoothingOptions, TargetOptions
from smoothgate.settings import Settings
from tests.fake_vllm import TEXT, USAGE, FakeVllm
from tests.gate.conftest import StartService, WatchedEngine
from tests.quick_gate import ENOUGH, SETTINGS, TARGET, odd_picture, quick_smoother
from tests.waiting import eventually
from tests.whole_service import SAMPLES

pytestmark = pytest.mark.asyncio

PICTURE = (SAMPLES / "seven.png").read_bytes()
LONG = SmoothingOptions(n_select=16, n_certify=8000)


def _turn(**fields: object) -> Turn:
    question = {"role": "user", "content": [{"type": "text", "text": "What digit is shown?"}]}
    defaults: dict[str, object] = {
        "route": "/test",
        "account": None,
        "request_id": "id",
        "messages": [question],
        "images": [PICTURE],
    }
    return Turn(**defaults | fields)  # type: ignore[arg-type]


def _sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"smoothgate_{name}", labels) or 0.0


def _selected() -> float:
    """How many images have had their feature selected."""
    (family,) = metrics.STAGE_SECONDS.collect()
    return sum(
        sample.value
        for sample in family.samples
        if sample.name.endswith("_count") and sample.labels["stage"] == "select"
    )


Outcomes = Callable[[], dict[str, tuple[float, float]]]


@pytest.fixture
def outcomes() -> Outcomes:
    """What the requests of the test were counted as: outcome -> number and seconds."""

    def read() -> dict[str, tuple[float, float]]:
        found = {}
        for family in metrics.REQUEST_SECONDS.collect():
            for sample in family.samples:
                if sample.name.endswith("_count") and sample.labels["route"] == "/test":
                    outcome = sample.labels["outcome"]
                    seconds = _sample("request_seconds_sum", route="/test", outcome=outcome)
                    found[outcome] = sample.value, seconds
        return found

    before = read()

    def since() -> dict[str, tuple[float, float]]:
        moved = {}
        for outcome, (count, seconds) in read().items():
            count_before, seconds_before = before.get(outcome, (0.0, 0.0))
            if count > count_before:
                moved[outcome] = count - count_before, seconds - seconds_before
        return moved

    return since


async def _begin(service: Service, turn: Turn, streamed: bool) -> None:
    """Ask for an answer, or for a stream until vLLM answers."""
    if streamed:
        async for event in service.answering.stream(turn):
            if isinstance(event, Piece):
                break
    else:
        await service.answering.answer(turn)


async def _nothing_is_sampled(service: Service, dropped_before: float) -> None:
    """Nothing waits at the sampler, since the rest of a request's samples was dropped."""
    await eventually(lambda: _sample("work_dropped_total") - dropped_before > 1000, 30)
    assert service.smoother.loaded.sampler.queued_samples == 0


async def test_a_whole_answer_has_text_certificates_and_figures(service: Service, vllm: FakeVllm) -> None:
    answer = await service.answering.answer(_turn(parameters={"max_tokens": 5}))
    assert answer.text == TEXT
    assert answer.completion["choices"][0]["message"]["content"] == TEXT
    assert answer.usage == USAGE
    assert answer.certificates is not None
    assert len(answer.certificates) == 1
    stages = answer.stages
    assert 0 < stages.decode <= stages.select <= stages.certify <= stages.now()
    assert 0 < stages.engine < stages.now()
    (body,) = vllm.bodies
    assert (body["max_tokens"], body["model"]) == (5, service.model.name)
    parts = body["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["image_embeds", "text"]


async def test_events_come_as_they_are_known(service: Service, vllm: FakeVllm) -> None:
    """The first pieces come before sampling has ended, and the certificates when it has."""
    turn = _turn(
        smoothing=SmoothingOptions(n_certify=400), parameters={"stream_options": {"include_usage": True}}
    )
    events = [event async for event in service.answering.stream(turn)]
    assert events[0] == Accepted(certified=True)
    pieces = [event for event in events if isinstance(event, Piece)]
    assert "".join(piece.text for piece in pieces) == TEXT
    assert [piece.ends_answer for piece in pieces[-3:]] == [False, True, True]
    (certificates,) = (event for event in events if isinstance(event, Certificates))
    assert events.index(certificates) > events.index(pieces[0])
    last = events[-1]
    assert isinstance(last, Finished)
    assert last.usage == USAGE
    assert 0 < last.stages.engine < last.stages.now()


async def test_certificates_come_after_the_answer_that_they_name(service: Service, vllm: FakeVllm) -> None:
    """Also where sampling ends long before the answer does."""
    vllm.open.clear()
    events: list[Event] = []
    async with aclosing(service.answering.stream(_turn())) as stream:
        async for event in stream:
            events.append(event)
            if isinstance(event, Piece) and not vllm.open.is_set():
                await eventually(_certified, 30)
                vllm.open.set()
    kinds = [type(event) for event in events]
    assert kinds == [Accepted, *[Piece] * (len(kinds) - 3), Certificates, Finished]


def _certified() -> bool:
    return not any(task.get_name() == CERTIFYING for task in asyncio.all_tasks())


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_certificate_names_request_question_answer_and_what_was_served(
    service: Service, vllm: FakeVllm, streamed: bool
) -> None:
    turn = _turn(parameters={"max_tokens": 5})
    if streamed:
        issued = [
            e.issued for e in [e async for e in service.answering.stream(turn)] if isinstance(e, Certificates)
        ]
        (certificate,) = issued[0]
    else:
        answer = await service.answering.answer(turn)
        (certificate,) = answer.certificates or []
    assert certificate.request_id == "id"
    assert certificate.answer is not None
    assert certificate.answer.sha256 == _sha256(json.dumps([TEXT]))
    assert not certificate.answer.certified
    image = {"sha256": _sha256(PICTURE), "type": "image"}
    text = {"text": "What digit is shown?", "type": "text"}
    assert certificate.question is not None
    messages = json.dumps([{"content": [image, text], "role": "user"}], separators=(",", ":"))
    assert certificate.question.messages_sha256 == _sha256(messages)
    assert certificate.question.decoding_sha256 == _sha256('{"max_tokens":5}')
    assert certificate.model.language_model_digest == checkpoint_digest(str(DEMO.model))
    (part, _) = vllm.bodies[0]["messages"][0]["content"]
    tokens = torch.load(io.BytesIO(base64.b64decode(part["image_embeds"])), weights_only=True)
    served = tokens.float().numpy().astype("<f4").tobytes()
    assert certificate.served_tokens_sha256 == hashlib.sha256(served).hexdigest()


async def test_a_certificate_without_a_language_model_names_no_answer(service: Service) -> None:
    request = ImageRequest(route="/test", request_id="id", account=None, images=[PICTURE])
    (certificate,) = await service.answering.certify(request)
    assert (certificate.request_id, certificate.question, certificate.answer) == ("id", None, None)


def _sha256(value: str | bytes) -> str:
    return hashlib.sha256(value.encode() if isinstance(value, str) else value).hexdigest()


async def test_a_chat_without_images_promises_no_certificates(service: Service) -> None:
    answer = await service.answering.answer(_turn(images=[]))
    assert answer.certificates is None
    events = [event async for event in service.answering.stream(_turn(images=[]))]
    assert events[0] == Accepted(certified=False)
    assert not [event for event in events if isinstance(event, Certificates)]


@pytest.mark.parametrize("streamed", [False, True])
async def test_sampling_ends_where_the_engine_is_lost_after_the_selection(
    service: Service, engine: WatchedEngine, streamed: bool
) -> None:
    selected, dropped = _selected(), _sample("work_dropped_total")
    engine.up = lambda: _selected() == selected
    turn = _turn(smoothing=LONG)
    with pytest.raises(NotReady):
        await _begin(service, turn, streamed)
    await _nothing_is_sampled(service, dropped)


@pytest.mark.parametrize("fault", ["failure", "hangs up", "no message"])
async def test_sampling_ends_where_the_engine_fails(
    service: Service, vllm: FakeVllm, fault: str, outcomes: Outcomes
) -> None:
    dropped = _sample("work_dropped_total")
    vllm.fault = fault
    with pytest.raises(EngineFailed):
        await service.answering.answer(_turn(smoothing=LONG))
    await _nothing_is_sampled(service, dropped)
    assert list(outcomes()) == ["engine_failed"]


async def test_closing_a_stream_ends_its_sampling_and_its_request_to_vllm(
    service: Service,
    engine: WatchedEngine,
    vllm: FakeVllm,
    outcomes: Outcomes,
) -> None:
    dropped = _sample("work_dropped_total")
    vllm.open.clear()
    stream = service.answering.stream(_turn(smoothing=LONG))
    assert await anext(stream) == Accepted(certified=True)
    assert isinstance(await anext(stream), Piece)
    await stream.aclose()
    await _nothing_is_sampled(service, dropped)
    await asyncio.wait_for(engine.client.drained(5), 1)
    assert list(outcomes()) == ["cancelled"]


async def test_cancelling_an_answer_ends_its_sampling(
    service: Service, vllm: FakeVllm, outcomes: Outcomes
) -> None:
    dropped = _sample("work_dropped_total")
    vllm.open.clear()
    answering = asyncio.create_task(service.answering.answer(_turn(smoothing=LONG)))
    await eventually(lambda: len(vllm.bodies) == 1, 30)
    answering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answering
    await _nothing_is_sampled(service, dropped)
    assert list(outcomes()) == ["cancelled"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_request_that_takes_too_long_ends_with_its_sampling(
    start_service: StartService, streamed: bool, outcomes: Outcomes
) -> None:
    """Selection alone takes longer than the limit. Decoding does not, even where a decoder has to start."""
    dropped = _sample("work_dropped_total")
    service = await start_service(request_timeout_seconds=3)
    turn = _turn(smoothing=SmoothingOptions(n_select=8000, n_certify=100))
    with pytest.raises(RequestTimedOut):
        await _begin(service, turn, streamed)
    await _nothing_is_sampled(service, dropped)
    ((outcome, (count, seconds)),) = outcomes().items()
    assert (outcome, count) == ("request_timeout", 1)
    assert seconds >= 3


async def test_a_policy_that_is_missed_asks_no_engine_and_ends_all_sampling(
    service: Service, vllm: FakeVllm, outcomes: Outcomes
) -> None:
    target = SmoothingOptions(n_certify=ENOUGH, policy="enforce", target=TargetOptions(**TARGET))
    with pytest.raises(PolicyNotMet) as caught:
        await service.answering.answer(_turn(images=[odd_picture()], smoothing=target))
    assert len(caught.value.certified["certificates"]) == 1
    assert vllm.bodies == []
    assert list(outcomes()) == ["policy_not_met"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_latency_is_counted_from_the_start_of_a_request(
    service: Service, streamed: bool, outcomes: Outcomes
) -> None:
    """Queue and selection are part of it; with so many selection samples they are most of it."""
    turn = _turn(smoothing=SmoothingOptions(n_select=200, n_certify=64))
    if streamed:
        *_, last = [event async for event in service.answering.stream(turn)]
        assert isinstance(last, Finished)
        stages = last.stages
    else:
        stages = (await service.answering.answer(turn)).stages
    ((outcome, (count, seconds)),) = outcomes().items()
    assert (outcome, count) == ("ok", 1)
    assert stages.certify <= seconds <= stages.now()


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_refusal_after_the_selection_counts_with_its_time(
    service: Service,
    vllm: FakeVllm,
    streamed: bool,
    outcomes: Outcomes,
) -> None:
    vllm.fault = "full"
    turn = _turn(smoothing=SmoothingOptions(n_select=200, n_certify=64))
    with pytest.raises(SmoothgateError):
        await _begin(service, turn, streamed)
    ((outcome, (count, seconds)),) = outcomes().items()
    assert (outcome, count) == ("overloaded", 1)
    assert seconds > 0.05


@pytest.mark.parametrize("fault", ["cut off", "nonsense in a stream", "no chunk"])
async def test_a_stream_that_breaks_off_counts_as_its_error(
    service: Service,
    vllm: FakeVllm,
    fault: str,
    outcomes: Outcomes,
) -> None:
    dropped = _sample("work_dropped_total")
    vllm.fault = fault
    with pytest.raises(EngineFailed):
        async for _ in service.answering.stream(_turn(smoothing=LONG)):
            pass
    assert list(outcomes()) == ["engine_failed"]
    await _nothing_is_sampled(service, dropped)


async def test_a_stream_waits_for_its_certificates_no_longer_than_a_request_may_take(
    start_service: StartService, monkeypatch: pytest.MonkeyPatch, outcomes: Outcomes
) -> None:
    service = await start_service(request_timeout_seconds=2)

    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(service.issuer, "issue", never)
    monkeypatch.setattr(answering, "_SIGNING_SECONDS", 1.0)
    texts: list[str] = []

    async def read() -> None:
        async for event in service.answering.stream(_turn()):
            texts.extend([event.text] if isinstance(event, Piece) else [])

    with pytest.raises(RequestTimedOut):
        await asyncio.wait_for(read(), 30)
    assert "".join(texts) == TEXT
    assert list(outcomes()) == ["request_timeout"]


async def test_names_that_do_not_resolve_keep_nobody_waiting(service: Service) -> None:
    """asyncio resolves names in its own threads. Nothing else waits for one of these."""
    over = threading.Event()
    loop = asyncio.get_running_loop()
    hanging = [loop.run_in_executor(None, over.wait) for _ in range(64)]
    try:
        async with asyncio.timeout(30):
            answer = await service.answering.answer(_turn())
    finally:
        over.set()
        await asyncio.gather(*hanging)
    assert answer.certificates is not None


@pytest.mark.parametrize("loss", ["encoder", "engine"])
async def test_a_start_that_fails_closes_what_was_opened(
    demo_encoder: UnitEncoder, engine: WatchedEngine, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(_env_file=None, **SETTINGS)

    def fails() -> None:
        raise SmoothgateError("There is no calibration.")

    async def fails_later() -> None:
        raise SmoothgateError("There is no engine.")

    load = quick_smoother(demo_encoder, settings) if loss == "engine" else fails
    service = build(settings, engine=engine, load_smoother=load)  # type: ignore[arg-type]
    closed: list[bool] = []
    monkeypatch.setattr(service.decoder, "aclose", _noting(closed, service.decoder.aclose))
    if loss == "engine":
        monkeypatch.setattr(engine, "start", fails_later)
    with pytest.raises(SmoothgateError) as caught:
        await service.start()
    assert service.failure is caught.value
    assert closed == [True]
    assert engine.stopped == (loss == "encoder")


async def test_a_model_whose_canvases_exceed_the_limit_is_not_served(engine: WatchedEngine) -> None:
    service = build(Settings(_env_file=None, max_canvas_pixels=48 * 48 - 1, **SETTINGS), engine=engine)
    with pytest.raises(SmoothgateError, match="the smallest canvas of this checkpoint has 2304 pixels"):
        await service.start()
    assert service.failure is not None
    assert service.failure.code == "canvas_limit_too_small"


def _noting(noted: list[bool], close: Callable[[], object]) -> Callable[[], object]:
    def noting() -> object:
        noted.append(True)
        return close()

    return noting


async def test_a_budget_that_can_certify_nothing_ends_the_start_and_the_sampler(
    demo_encoder: UnitEncoder, engine: WatchedEngine
) -> None:
    settings = Settings(_env_file=None, **SETTINGS | {"n_certify": 4})
    service = build(settings, engine=engine, load_smoother=quick_smoother(demo_encoder, settings))
    with pytest.raises(SmoothgateError, match="the smallest number that could is"):
        await service.start()
    assert engine.stopped
    assert not service.smoother.loaded.sampler.alive
