"""What becomes of a request that Envoy shows the filter."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import ProcessingModeBodySendMode as Mode
from grpc_health.v1 import health_pb2, health_pb2_grpc

from smoothgate.certify.signing import verify
from smoothgate.errors import SmoothgateError
from smoothgate.extproc.filter_server import LIVE, SERVICE
from smoothgate.gate import accounts
from smoothgate.gate.health import Health
from smoothgate.psm.unit_encoder import UnitEncoder
from tests.extproc.envoys_words import BUFFERED, STREAMED, Passed, Refused, ask, refusal, streaming
from tests.extproc.running_filter import Filter, running_filter
from tests.fake_vllm import FakeVllm
from tests.quick_gate import TARGET, OpenGate, odd_picture
from tests.waiting import wait_until
from tests.whole_service import image_part

QUESTION = {"type": "text", "text": "What digit is shown?"}
HELLO: dict[str, Any] = {"model": "smoothgate-demo", "messages": [{"role": "user", "content": "Hello"}]}
OURS = ["smoothgate-outcome", "smoothgate-radius", "smoothgate-certificate"]

both_modes = pytest.mark.parametrize("mode", [STREAMED, BUFFERED], ids=["streamed", "buffered"])


def _chat(*parts: Any, **fields: Any) -> dict[str, Any]:
    content = [*(parts or (image_part("seven.png"),)), QUESTION]
    return {"model": "smoothgate-demo", "messages": [{"role": "user", "content": content}]} | fields


def _passed(found: Passed | Refused) -> Passed:
    assert isinstance(found, Passed), found
    return found


def _refused(found: Passed | Refused) -> Refused:
    assert isinstance(found, Refused), found
    return found


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the noise: with the same one, another service draws the same for the same picture."""
    file = tmp_path_factory.mktemp("noise") / "secret"
    file.write_bytes(bytes(range(32)))
    return file


@pytest.fixture(scope="module")
def shared(demo_encoder: UnitEncoder, secret: Path) -> Iterator[Filter]:
    limits = {"max_body_bytes": 300_000, "body_timeout_seconds": 2}
    with running_filter(demo_encoder, noise_secret_file=secret, **limits) as started:
        yield started


@both_modes
def test_vllm_gets_what_the_gate_would_send(
    shared: Filter, secret: Path, open_gate: OpenGate, vllm: FakeVllm, mode: Any
) -> None:
    chat = _chat(image_part("seven.png"), image_part("two.png"), max_tokens=7, stream=False, user="alice")
    gate = open_gate(noise_secret_file=secret)
    assert gate.http.post("/v1/chat/completions", json=chat).status_code == 200
    (sent,) = vllm.bodies
    assert "image_url" not in json.dumps(sent)
    found = _passed(ask(shared, chat, mode=mode))
    assert found.json == sent
    if mode == BUFFERED:
        assert int(found.headers["content-length"]) == len(found.body)


@both_modes
def test_the_outcome_is_put_on_request_and_response(shared: Filter, mode: Any) -> None:
    found = _passed(ask(shared, _chat(), mode=mode))
    assert found.headers["smoothgate-outcome"] == "bounded"
    assert float(found.headers["smoothgate-radius"]) > 0
    assert {found.headers[name] for name in ("x-request-id",)} == {"one"}
    expected = {name: value for name, value in found.headers.items() if name != "content-length"}
    assert found.on_response == expected


def test_who_asks_for_certificates_gets_them_on_the_response(shared: Filter) -> None:
    chat = _chat(image_part("seven.png"), image_part("two.png"))
    found = _passed(ask(shared, chat, smoothgate_certificate="?1"))
    assert "smoothgate-certificate" not in found.headers
    signed = found.on_response["smoothgate-certificate"].split(", ")
    certificates = [verify(each, shared.service.issuer.key_set).model_dump() for each in signed]
    assert [each["request_id"] for each in certificates] == ["one", "one"]
    radii = [each["radius"]["value"] for each in certificates]
    assert float(found.on_response["smoothgate-radius"]) == pytest.approx(min(radii), rel=1e-5)


def test_what_a_client_says_of_itself_is_removed(shared: Filter) -> None:
    found = _passed(ask(shared, HELLO, smoothgate_outcome="certified"))
    assert "smoothgate-outcome" not in found.headers
    assert found.removed == OURS
    with streaming(shared) as stream:
        stream.headers("GET", "/v1/models", ends=True, smoothgate_outcome="certified")
        assert stream.hear().request_headers.response.header_mutation.remove_headers == OURS
        assert not stream.response().set_headers


@both_modes
@pytest.mark.parametrize(
    "fields", [{}, {"stream": True, "temperature": 0.5}, {"user": "alice", "metadata": {"a": "b"}}]
)
def test_text_passes_byte_for_byte(shared: Filter, mode: Any, fields: dict[str, Any]) -> None:
    # As no encoder of ours would write it.
    raw = json.dumps(HELLO | fields, indent=3).replace("Hello", "\\u0048ello").encode()
    found = _passed(ask(shared, raw, mode=mode))
    assert found.body == raw
    assert "smoothgate-outcome" not in found.on_response


@pytest.mark.parametrize(
    "changed",
    [
        HELLO | {"messages": [{"role": "user", "content": "an <image> of words"}]},
        HELLO | {"smoothing": {"n_certify": 48}},
        {"messages": HELLO["messages"]},
    ],
    ids=["a placeholder", "a field of ours", "no model"],
)
def test_text_that_vllm_must_not_see_is_changed(shared: Filter, changed: dict[str, Any]) -> None:
    found = _passed(ask(shared, changed))
    assert found.json["model"] == "smoothgate-demo"
    assert "<image>" not in found.body.decode()
    assert "smoothing" not in found.json


BROKEN = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}}
EMBEDS = {"type": "image_embeds", "image_embeds": "AAAA"}


@both_modes
@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'{"messages": [', 400, "invalid_json"),
        (b"[]", 400, "malformed_request"),
        (b"", 400, "invalid_json"),
        (_chat(BROKEN), 422, "invalid_image"),
        (_chat(EMBEDS), 422, "unsupported_content"),
        (HELLO | {"cache_salt": "mine"}, 422, "unknown_field"),
        (HELLO | {"kv_transfer_params": {"host": "x"}}, 422, "unknown_field"),
        (HELLO | {"model": "another"}, 404, "model_not_found"),
        (_chat(smoothing={"certify": "answer"}), 400, "malformed_request"),
        (b"x" * 300_001, 413, "body_too_large"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_is_wrong_is_refused_in_the_one_shape(
    shared: Filter, mode: Any, body: Any, status: int, code: str
) -> None:
    found = _refused(ask(shared, body, mode=mode))
    assert (found.status, found.error["code"]) == (status, code)
    assert found.headers["content-type"] == "application/json"
    assert found.headers["x-request-id"] == "one"


def test_a_body_of_another_kind_is_refused(shared: Filter) -> None:
    assert _refused(ask(shared, HELLO, content_type="text/plain")).status == 415
    assert _refused(ask(shared, HELLO, content_encoding="gzip")).status == 415


@pytest.mark.parametrize(
    ("method", "path", "ends"),
    [
        ("POST", "/v1/completions", False),
        ("POST", "/v1/chat/completions/", False),
        ("POST", "/v1//chat/completions", False),
        ("POST", "/v1/responses", False),
        ("POST", "/reset_prefix_cache", True),
        ("PUT", "/v1/chat/completions", False),
        ("GET", "/v1/realtime", False),
    ],
)
@both_modes
def test_what_is_not_read_does_not_pass(
    shared: Filter, method: str, path: str, ends: bool, mode: Any
) -> None:
    with streaming(shared) as stream:
        stream.headers(method, path, mode=mode, ends=ends)
        found = refusal(stream.hear())
    assert (found.status, found.error["code"]) == (404, "not_filtered")


def test_a_body_that_trailers_end(shared: Filter) -> None:
    raw = json.dumps(HELLO).encode()
    with streaming(shared) as stream:
        stream.headers()
        stream.body(raw, ends=False)
        stream.trailers()
        assert stream.hear().request_headers is not None
        piece = stream.hear().request_body.response.body_mutation.streamed_response
        assert (piece.body, piece.end_of_stream) == (raw, False)
        assert stream.hear().request_trailers is not None


def test_a_body_that_does_not_come_is_not_waited_for(shared: Filter) -> None:
    with streaming(shared) as stream:
        stream.headers()
        stream.body(b"{", ends=False)
        found = refusal(stream.hear())
    assert (found.status, found.error["code"]) == (408, "body_timeout")


@pytest.mark.parametrize(
    ("mode", "response"),
    [
        (None, Mode.NONE),
        (Mode.NONE, Mode.NONE),
        (Mode.STREAMED, Mode.NONE),
        (Mode.BUFFERED_PARTIAL, Mode.NONE),
        (STREAMED, STREAMED),
    ],
)
def test_an_envoy_that_would_let_pictures_pass_is_refused(shared: Filter, mode: Any, response: Any) -> None:
    with streaming(shared) as stream:
        stream.headers(mode=mode, response=response)
        found = refusal(stream.hear())
    assert (found.status, found.error["code"]) == (500, "bad_gateway_setup")


def test_a_stream_that_does_not_begin_with_a_request_ends_with_an_error(shared: Filter) -> None:
    with streaming(shared) as stream:
        stream.body(b"{}")
        with pytest.raises(grpc.RpcError) as raised:
            stream.hear()
    assert _status(raised.value) == grpc.StatusCode.INVALID_ARGUMENT


def test_a_client_that_leaves_ends_the_work(shared: Filter) -> None:
    in_flight = shared.service.in_flight
    with streaming(shared) as stream:
        stream.headers()
        stream.body(json.dumps(_chat(smoothing={"n_certify": 16000})).encode())
        wait_until(lambda: in_flight.count == 1, 10, lambda: in_flight.count)
        stream.call.cancel()
        wait_until(lambda: in_flight.count == 0, 5, lambda: in_flight.count)


def test_an_answer_of_envoys_own_ends_the_work(shared: Filter) -> None:
    """As that to a client whose body takes too long: Envoy shows it as the response to the request."""
    with streaming(shared) as stream:
        stream.headers()
        stream.body(b"{", ends=False)
        assert not stream.response().set_headers


def test_a_policy_that_is_enforced_blocks(demo_encoder: UnitEncoder) -> None:
    cosine, eps = TARGET["cosine"], TARGET["eps"]
    policy = {"policy": "enforce", "policy_cosine": cosine, "policy_eps": eps, "n_certify": 256}
    with running_filter(demo_encoder, **policy) as enforcing:
        found = _passed(ask(enforcing, _chat()))
        assert found.on_response["smoothgate-outcome"] == "certified"
        uri = "data:image/png;base64," + base64.b64encode(odd_picture()).decode()
        odd = {"type": "image_url", "image_url": {"url": uri}}
        refused = _refused(ask(enforcing, _chat(odd)))
    assert (refused.status, refused.error["code"]) == (422, "policy_not_met")
    (certificate,) = refused.body["certificates"]
    assert certificate["outcome"] == "abstained"


def test_accounts_are_those_of_the_gate(demo_encoder: UnitEncoder, tmp_path: Path) -> None:
    alice, key = accounts.new("alice", tokens_per_minute=1000)
    accounts.save(tmp_path / "accounts.json", [alice])
    with running_filter(demo_encoder, accounts=tmp_path / "accounts.json") as started:
        assert _refused(ask(started, HELLO)).status == 401
        found = _passed(ask(started, HELLO, authorization=f"Bearer {key}"))
        assert found.json == HELLO | {"cache_salt": alice.cache_salt}
        # Its answer may be 1,000 tokens long, and nobody tells the filter how long it is. The first that was
        # asked for may have had any length.
        _passed(ask(started, HELLO | {"max_tokens": 1000}, authorization=f"Bearer {key}"))
        refused = _refused(ask(started, HELLO, authorization=f"Bearer {key}"))
    assert (refused.status, refused.error["code"]) == (429, "tokens_per_minute")
    assert int(refused.headers["retry-after"]) > 30


def test_a_filter_that_is_not_ready_lives(demo_encoder: UnitEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes would otherwise start it again."""
    with running_filter(demo_encoder) as started, grpc.insecure_channel(started.address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check

        def serves(name: str) -> bool:
            return bool(check(health_pb2.HealthCheckRequest(service=name)).status == 1)

        wait_until(lambda: serves(SERVICE), 10, lambda: "not serving")
        monkeypatch.setattr(Health, "problems", lambda _: {"encoder": "lost"})
        wait_until(lambda: not serves(SERVICE), 10, lambda: "still serving")
        assert serves(LIVE)


def test_draining(demo_encoder: UnitEncoder) -> None:
    with (
        running_filter(demo_encoder, shutdown_timeout_seconds=10) as started,
        grpc.insecure_channel(started.address) as channel,
        streaming(started) as under_way,
        streaming(started) as late,
    ):
        check = health_pb2_grpc.HealthStub(channel).Check
        asked = health_pb2.HealthCheckRequest(service=SERVICE)
        wait_until(lambda: check(asked).status == 1, 10, lambda: "not serving")
        under_way.headers()
        wait_until(lambda: started.service.in_flight.count == 1, 10, lambda: "not under way")
        started.stop()
        wait_until(lambda: check(asked).status == 2, 10, lambda: "still serving")
        late.headers()
        found = refusal(late.hear())
        assert (found.status, found.error["code"]) == (503, "draining")
        under_way.body(json.dumps(HELLO).encode())
        assert under_way.hear().request_headers is not None
        assert under_way.hear().request_body is not None
        assert under_way.response().set_headers


def test_answers_cannot_be_certified(demo_encoder: UnitEncoder) -> None:
    with (
        pytest.raises(SmoothgateError, match="a filter sees no answer"),
        running_filter(demo_encoder, certify="answer"),
    ):
        pass


def test_a_port_that_is_taken(demo_encoder: UnitEncoder, shared: Filter) -> None:
    with (
        pytest.raises(SmoothgateError, match=f"Cannot listen on port {shared.port}"),
        running_filter(demo_encoder, port=shared.port),
    ):
        pass


def _status(error: Any) -> Any:
    return error.code()
