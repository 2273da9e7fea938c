"""A small run of `python -m tests.fuzz` against the service that the other tests use; and its parts."""

import asyncio
import gc
import io
import socket
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

import pytest
from PIL import Image

from smoothgate.gate.build import build
from smoothgate.http.app import create_app
from smoothgate.settings import Settings
from tests.families import tiny_model
from tests.fuzz import bodies, hostile, images, names, openapi, sizes, wire
from tests.fuzz.bystander import standing_by
from tests.fuzz.checks import Checks
from tests.fuzz.request import Json, Raw, Request
from tests.fuzz.run import MOST_GROWTH, MOST_WAIT, growth, run
from tests.fuzz.sending import Answer
from tests.fuzz.shrink import shrunk
from tests.fuzz.stream import SHARES, stream
from tests.quick_gate import OpenGate
from tests.whole_service import Gate, opened

BODIES = {
    "/v1/certify",
    "/v1/chat",
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/embeddings",
}


@pytest.mark.engine
# Starlette forgets files that a form breaks off in; they are closed when they are collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_mutated_requests_get_clean_answers(gate: Gate) -> None:
    few = gate.settings.model_copy(update={"n_select": 16, "n_certify": 64, "max_samples": 512})
    with opened(few) as small:
        small.wait_ready()
        figures = asyncio.run(run(small.url, 100, seed=1, patient=False))
    gc.collect()
    assert figures["failures"] == []
    assert (figures["requests"], figures["restarts"], figures["well"]) == (100, 0, True)
    assert figures["statuses"].keys() == SHARES.keys()


def test_hostile_bodies_delay_nobody_else(quick_gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """The vLLM is a fake one. What it would refuse is answered."""
    monkeypatch.setattr("tests.fuzz.stream.SHARES", dict.fromkeys(SHARES, 0.0) | {hostile.SOURCE: 1.0})
    figures = asyncio.run(run(quick_gate.url, 60, seed=1))
    assert figures["failures"] == []
    assert figures["bystander"]["refused"] == []
    assert 0 < figures["bystander"]["probe"] < MOST_WAIT["probe"]
    assert 0 < figures["bystander"]["answer"] < MOST_WAIT["answer"]
    assert set(figures["statuses"][hostile.SOURCE]) >= {"400", "413", "415", "422"}


def test_a_run_beside_which_nobody_is_answered_fails() -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unheard.getsockname()[1]}"
        with pytest.raises(RuntimeError, match="stands by has failed"), standing_by(url):
            pass


@pytest.fixture(scope="module")
def document() -> Json:
    settings = Settings(_env_file=None)
    document: Json = create_app(build(settings), settings).openapi()
    return document


def test_a_seed_says_what_is_sent(document: Json) -> None:
    first, again, other = (list(stream(document, n, seed)) for n, seed in ((100, 1), (20, 1), (20, 2)))
    assert first[:20] == again
    assert first[:20] != other
    for source, share in SHARES.items():
        assert abs(sum(each.source == source for each in first) / 100 - share) < 0.12


def test_bodies_are_accepted_before_they_are_changed(quick_gate: Gate) -> None:
    paths = set()
    for number in range(30):
        path, body = bodies.valid(Random(number))
        answer = quick_gate.http.post(path, json=body)
        assert answer.status_code == 200, (path, answer.text)
        paths.add(path)
    assert paths == BODIES


def test_names_that_are_known_are_found(open_gate: OpenGate, tmp_path: Path) -> None:
    http = open_gate(store=tmp_path).http
    found: Counter[tuple[str, int]] = Counter()
    for request in islice(names.requests(Random(1)), 80):
        assert isinstance(request, Request)
        answer = http.request(
            request.method, request.path, headers=dict(request.headers), content=request.body
        )
        found[request.path.rpartition("/")[0], answer.status_code] += 1
    assert found["/v1", 200] == 8, "the requests that certificates are made for"
    for path in (names.MODELS, names.CERTIFICATES):
        assert found[path.rstrip("/"), 200] > 3
        assert found[path.rstrip("/"), 404] > 3


def _some(requests: Iterator[Request] | Iterator[Raw], count: int = 200) -> list[Request | Raw]:
    return list(islice(requests, count))


def test_every_operation_is_asked(document: Json) -> None:
    labels = {each.what for each in _some(openapi.requests(Random(1), document), 300)}
    for path, operations in document["paths"].items():
        for method in operations:
            assert f"positive: {method.upper()} {path}" in labels
    assert {label.partition(":")[0] for label in labels} == {"positive", "negative", "border"}


@pytest.mark.parametrize("kind", images.pictures())
def test_pictures_are_valid_before_they_are_changed(kind: str) -> None:
    with Image.open(io.BytesIO(images.pictures()[kind])) as image:
        image.load()
        assert image.size == (44, 36)


def test_an_interlaced_picture_is_the_same_picture() -> None:
    plain, interlaced = (
        Image.open(io.BytesIO(images.pictures()[kind])) for kind in ("png", "png interlaced")
    )
    assert interlaced.info["interlace"] == 1
    assert interlaced.tobytes() == plain.tobytes()


def test_changed_pictures_go_far_into_the_decoders() -> None:
    """Some are still read, some fail when they are opened, and some only when they are decoded."""
    outcomes = set()
    for number in range(300):
        rng = Random(number)
        _, data = images.mutate(rng, rng.choice(list(images.pictures().values())))
        outcomes.add(_outcome(data))
    assert outcomes == {"read", "not opened", "not decoded"}


def _outcome(data: bytes) -> str:
    outcome = "not opened"
    try:
        with Image.open(io.BytesIO(data)) as image:
            outcome = "not decoded"
            if image.width * image.height < 10**6:
                image.load()
                outcome = "read"
    except Exception:
        return outcome
    return outcome


def test_bodies_and_bytes_are_of_every_kind() -> None:
    sent = [each.body for each in _some(bodies.requests(Random(1)), 3000) if isinstance(each, Request)]
    for part in (b"NaN", b"Infinity", b"1e999", b"\\ud800", b"9" * 5000, b"[" * 900, b"kv_transfer_params"):
        assert any(part in body for body in sent), part
    kinds = {each.what for each in _some(wire.requests(Random(1), patient=True), 1000)}
    assert len(kinds) > 25


def test_sizes_go_beyond_the_canvas_that_the_model_of_free_sizes_is_allowed() -> None:
    """Each request holds pictures; so many of different sizes that batches of many shapes are under way."""
    labels = [each.what for each in _some(sizes.requests(Random(1)), 100)]
    seen = {tuple(map(int, one.split(" x "))) for label in labels for one in label.split(", ")}
    assert len(seen) > 10
    assert any(height * width > tiny_model.MOST_PIXELS for height, width in seen)
    assert max(label.count(",") for label in labels) == Settings(_env_file=None).max_images


def _answer(status: int = 400, body: bytes = b"", **headers: str) -> Answer:
    return Answer(status, {"x-request-id": "1"} | headers, body)


GOOD = b'{"error": {"message": "m", "type": "t", "param": null, "code": "c"}}'
STREAM = {"content-type": "text/event-stream"}


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (_answer(200), None),
        (_answer(400, GOOD), None),
        (_answer(500, GOOD), "status 500"),
        (_answer(502, GOOD), "status 502"),
        (_answer(418, GOOD), "status 418 is not in the OpenAPI document"),
        (_answer(400, GOOD, **{"x-request-id": ""}), "no X-Request-Id"),
        (_answer(400, b"no"), "not the error shape"),
        (_answer(400, GOOD.replace(b'"param": null, ', b"")), "not the error shape"),
        (_answer(400, GOOD[:-1] + b', "certificates": []}'), "not the error shape"),
        (_answer(422, GOOD.replace(b'"c"', b'"policy_not_met"')[:-1] + b', "certificates": []}'), None),
        (_answer(200, b"Traceback (most recent call last)"), "a traceback in the body"),
        (_answer(200, b"data: {}\n\ndata: [DONE]\n\n", **STREAM), None),
        (_answer(200, b"data: " + GOOD + b"\n\n", **STREAM), None),
        (_answer(200, b"data: {}\n\n", **STREAM), "a stream that ends with neither its end nor an error"),
        (
            _answer(200, b"data: " + GOOD.replace(b'"t"', b'"server_error"') + b"\n\n", **STREAM),
            "a stream that fails",
        ),
    ],
)
def test_what_is_wrong_with_an_answer(document: Json, answer: Answer, problem: str | None) -> None:
    checks = Checks(document)
    assert checks.problem(Request("bodies", "", "POST", "/v1/chat?a=b"), answer) == problem


def test_garbage_may_be_refused_before_there_is_a_request(document: Json) -> None:
    garbage = Answer(400, {}, b"Invalid HTTP request received.")
    assert Checks(document).problem(Raw("wire", "", b"\0"), garbage) is None
    assert Checks(document).problem(Request("bodies", "", "GET", "/"), garbage) == "no X-Request-Id"


def test_a_failure_is_shrunk_to_what_fails() -> None:
    async def fails(request: Request | Raw) -> bool:
        return b"bad" in (request.body if isinstance(request, Request) else request.sent)

    body = b'{"a": [1, {"b": "bad", "c": 2}], "d": "x"}'
    less = asyncio.run(shrunk(Request("bodies", "", "POST", "/", (), body), fails))
    assert less == Request("bodies", "", "POST", "/", (), b'{"a": [{"b": "bad"}]}')
    raw = asyncio.run(shrunk(Raw("wire", "", b"much before bad and after"), fails))
    assert raw == Raw("wire", "", b"bad")


@pytest.mark.parametrize(("count", "settled"), [(12_000, 3_000), (1_000, 500)])
def test_growth_counts_after_the_first_requests(count: int, settled: int) -> None:
    def grown(until: int) -> float:
        readings = [(done, {"service": 1000 + min(done, until)}) for done in range(0, count + 1, 10)]
        return float(growth(readings, count)["service"]["growth"])

    assert grown(settled) == 0
    assert grown(count) > MOST_GROWTH
