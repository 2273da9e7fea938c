"""The client against a server with faults that the real one rarely has."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from smoothgate.engine.engine_client import EngineClient, Route
from smoothgate.errors import (
    EngineFailed,
    EngineTimedOut,
    MalformedRequest,
    NotReady,
    Overloaded,
    RequestError,
    SmoothgateError,
    TooLarge,
    Unacceptable,
    UnknownModel,
)
from tests.engine.conftest import Respond, Serve

pytestmark = pytest.mark.asyncio

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
ANSWER = {"choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}]}


def plain(status: int, content: Any, *headers: str) -> Respond:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    head = "\r\n".join([f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers])

    async def respond(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(head.encode() + b"\r\n\r\n" + body)
        await writer.drain()

    return respond


def events(*pieces: bytes | float | asyncio.Event, end: bool = True) -> Respond:
    """A stream that is sent in these pieces.

    A number is a pause in seconds, and an event is waited for. Without `end` the connection breaks.
    """

    async def respond(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for piece in pieces:
            if isinstance(piece, float):
                await asyncio.sleep(piece)
                continue
            if isinstance(piece, asyncio.Event):
                await piece.wait()
                continue
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
            await asyncio.sleep(0.01)
        if end:
            writer.write(b"0\r\n\r\n")
            await writer.drain()

    return respond


def chunk(content: str, finish_reason: str | None = None) -> bytes:
    data = {"choices": [{"delta": {"content": content}, "finish_reason": finish_reason}]}
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


DONE = b"data: [DONE]\n\n"


async def collected(client: EngineClient) -> str:
    chunks = [chunk async for chunk in await client.stream(CHAT)]
    return "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)


def error(status: int, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": "its words", "type": "X", "param": param, "code": status}}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("respond", "expected", "message"),
    [
        (plain(400, error(400, "top_p")), RequestError, "its words"),
        (plain(404, error(404)), UnknownModel, "its words"),
        (plain(413, error(413)), TooLarge, "its words"),
        (plain(422, error(422)), Unacceptable, "its words"),
        (plain(401, error(401)), EngineFailed, "status 401"),
        (plain(500, error(500)), EngineFailed, "status 500"),
        (plain(501, error(501)), EngineFailed, "status 501"),
        (plain(302, b""), EngineFailed, "status 302"),
        (plain(503, error(503)), NotReady, "not ready"),
        (plain(504, b"<html>"), EngineTimedOut, "in time"),
        (plain(400, b"<html>"), RequestError, "status 400"),
        (plain(400, {"error": "its words"}), RequestError, "status 400"),
    ],
)
async def test_a_status_becomes_an_exception(
    serve: Serve, respond: Respond, expected: type[SmoothgateError], message: str, streamed: bool
) -> None:
    client = EngineClient(socket=await serve(respond))
    with pytest.raises(SmoothgateError, match=message) as failure:
        await (client.stream(CHAT) if streamed else client.chat(CHAT))
    assert type(failure.value) is expected
    await client.drained(0)
    await client.aclose()


@pytest.mark.parametrize(
    ("fields", "expected", "param"),
    [
        ({"structured_outputs": {"grammar": "root ::="}}, Unacceptable, "structured_outputs"),
        ({"response_format": {"type": "json_object"}}, Unacceptable, "response_format"),
        ({"response_format": {"type": "text"}, "structured_outputs": None}, EngineFailed, None),
    ],
)
async def test_status_500_blames_the_grammar_if_the_request_has_one(
    serve: Serve, fields: dict[str, Any], expected: type[SmoothgateError], param: str | None
) -> None:
    client = EngineClient(socket=await serve(plain(500, error(500))))
    with pytest.raises(expected) as whole:
        await client.chat(CHAT | fields)
    await client.aclose()
    frame = f"data: {json.dumps(error(500))}\n\n".encode()
    client = EngineClient(socket=await serve(events(frame)))
    with pytest.raises(expected) as streamed:
        async for _ in await client.stream(CHAT | fields):
            pass
    await client.aclose()
    assert whole.value.param == streamed.value.param == param


async def test_the_field_at_fault_and_the_time_to_wait_are_kept(serve: Serve) -> None:
    client = EngineClient(socket=await serve(plain(400, error(400, "body.n"))))
    with pytest.raises(RequestError) as refusal:
        await client.chat(CHAT)
    assert refusal.value.param == "n"
    await client.aclose()
    client = EngineClient(socket=await serve(plain(429, error(429), "Retry-After: 17")))
    with pytest.raises(Overloaded) as overload:
        await client.chat(CHAT)
    assert overload.value.retry_after == 17
    await client.aclose()


@pytest.mark.parametrize(
    ("respond", "message"),
    [
        (plain(200, b"[]"), "not a JSON object"),
        (plain(200, b"{"), "not JSON"),
        (plain(200, {"choices": [{"message": {"content": "Hal"}, "finish_reason": "abort"}]}), "complete"),
        (events(b"{", end=False), "closed the connection"),
    ],
)
async def test_an_invalid_whole_answer_is_a_failure(serve: Serve, respond: Respond, message: str) -> None:
    client = EngineClient(socket=await serve(respond))
    with pytest.raises(EngineFailed, match=message):
        await client.chat(CHAT)
    await client.aclose()


async def test_frames_are_read_however_the_stream_is_cut(serve: Serve) -> None:
    wire = b": a comment\n\n" + chunk("a\u2028b\x85c") + chunk("d", "stop") + DONE
    for size in (3, 50, len(wire)):
        pieces = [wire[start : start + size] for start in range(0, len(wire), size)]
        client = EngineClient(socket=await serve(events(*pieces)))
        assert await collected(client) == "a\u2028b\x85cd"
        await client.aclose()


@pytest.mark.parametrize(
    ("pieces", "end", "expected", "message"),
    [
        ([chunk("a")], False, EngineFailed, "closed the connection"),
        ([chunk("a")], True, EngineFailed, "broke off"),
        (
            [chunk("a"), b'data: {"error": {"message": "its words", "code": 500}}\n\n'],
            True,
            EngineFailed,
            "500",
        ),
        (
            [chunk("a"), b'data: {"error": {"message": "its words", "code": 400}}\n\n'],
            True,
            RequestError,
            "its words",
        ),
        ([chunk("a"), b'data: {"error": "words"}\n\n', DONE], True, EngineFailed, "failure"),
        ([chunk("a"), chunk("b", "abort"), DONE], True, EngineFailed, "complete"),
        ([chunk("a"), b"data: {\n\n", DONE], True, EngineFailed, "not JSON"),
    ],
)
async def test_a_stream_never_ends_cleanly_when_it_is_not_complete(
    serve: Serve, pieces: list[bytes], end: bool, expected: type[SmoothgateError], message: str
) -> None:
    client = EngineClient(socket=await serve(events(*pieces, end=end)))
    stream = await client.stream(CHAT)
    assert (await anext(stream))["choices"][0]["delta"]["content"] == "a"
    with pytest.raises(SmoothgateError, match=message) as failure:
        await anext(stream)
    assert type(failure.value) is expected
    assert [chunk async for chunk in stream] == []
    await client.drained(0)
    await client.aclose()


@pytest.mark.parametrize("pieces", [[], [chunk("a")]], ids=["first token", "between tokens"])
async def test_a_silent_stream_times_out(serve: Serve, pieces: list[bytes]) -> None:
    client = EngineClient(socket=await serve(events(*pieces, asyncio.Event())), read_timeout=0.2)
    began = time.monotonic()
    with pytest.raises(EngineTimedOut):
        await collected(client)
    assert time.monotonic() - began > 0.1
    assert client.chat_timed_out
    await client.aclose()


async def test_a_whole_answer_times_out(serve: Serve) -> None:
    async def respond(request: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    client = EngineClient(socket=await serve(respond), read_timeout=0.2)
    with pytest.raises(EngineTimedOut):
        await client.chat(CHAT)
    assert client.chat_timed_out
    await client.aclose()


async def test_a_long_stream_without_silence_does_not_time_out(serve: Serve) -> None:
    """It takes longer than the limit, and each of its pauses is far shorter."""
    pieces = [piece for _ in range(50) for piece in (0.05, chunk("a"))]
    client = EngineClient(socket=await serve(events(*pieces, DONE)), read_timeout=2.0)
    assert await collected(client) == 50 * "a"
    await client.aclose()


async def test_a_request_before_readiness_gets_a_retry_after(short_path: Path) -> None:
    client = EngineClient(socket=short_path / "none.sock", ready=lambda: False)
    with pytest.raises(NotReady) as refusal:
        await client.chat(CHAT)
    assert refusal.value.retry_after
    assert not await client.health()
    await client.aclose()


async def test_an_unreachable_engine_is_a_failure(short_path: Path) -> None:
    client = EngineClient(socket=short_path / "none.sock")
    with pytest.raises(EngineFailed, match="cannot be reached"):
        await client.chat(CHAT)
    with pytest.raises(EngineFailed, match="cannot be reached"):
        await client.models()
    await client.aclose()


async def test_an_engine_that_dies_before_the_connection_is_not_ready(short_path: Path) -> None:
    answers = iter([True, False])
    client = EngineClient(socket=short_path / "none.sock", ready=lambda: next(answers))
    with pytest.raises(NotReady):
        await client.chat(CHAT)
    await client.aclose()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800"])
async def test_what_json_cannot_represent_is_a_malformed_request(short_path: Path, value: Any) -> None:
    client = EngineClient(socket=short_path / "none.sock")
    with pytest.raises(MalformedRequest):
        await client.chat(CHAT | {"temperature": value})
    await client.aclose()


async def test_headers_and_route(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    requests: list[bytes] = []

    async def respond(request: bytes, writer: asyncio.StreamWriter) -> None:
        requests.append(request)
        await plain(200, ANSWER)(request, writer)

    client = EngineClient(socket=await serve(respond), api_key="key")
    await client.chat(CHAT, request_id="abc")
    head, _, content = requests[0].partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /v1/chat/completions HTTP/1.1"
    assert "Authorization: Bearer key" in lines
    assert "X-Request-Id: abc" in lines
    assert json.loads(content) == CHAT | {"stream": False}
    await client.aclose()


async def test_the_client_calls_only_six_routes() -> None:
    assert set(Route) == {
        "/v1/chat/completions",
        "/v1/completions",
        "/tokenize",
        "/v1/models",
        "/health",
        "/version",
    }


async def test_draining_waits_for_requests_in_flight_up_to_its_limit(serve: Serve) -> None:
    more = asyncio.Event()
    client = EngineClient(socket=await serve(events(chunk("a"), more, chunk("b"), DONE)))
    reading = asyncio.create_task(collected_from(await client.stream(CHAT)))
    await client.drained(0.1)
    assert not reading.done()
    more.set()
    async with asyncio.timeout(60):
        await client.drained(600)
    assert await reading == "ab"
    await client.aclose()


async def collected_from(stream: Any) -> str:
    return "".join([chunk["choices"][0]["delta"]["content"] async for chunk in stream])


async def test_no_proxy_of_the_environment_sees_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with _counting_server() as (url, opened):
        client = EngineClient(url)
        assert await client.chat(CHAT) == ANSWER
        assert len(opened) == 1
        await client.aclose()


@pytest.mark.parametrize(("keepalive", "connections"), [(0.1, 2), (60.0, 1)])
async def test_an_idle_connection_is_kept_as_long_as_it_may(keepalive: float, connections: int) -> None:
    async with _counting_server() as (url, opened):
        client = EngineClient(url, keepalive=keepalive)
        await client.chat(CHAT)
        await asyncio.sleep(0.3)
        await client.chat(CHAT)
        assert len(opened) == connections
        await client.aclose()


@asynccontextmanager
async def _counting_server(status: int = 200) -> AsyncIterator[tuple[str, list[asyncio.StreamWriter]]]:
    """The URL of a server that keeps connections, and the connections that were opened."""
    opened: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened.append(writer)
        body = json.dumps(ANSWER).encode()
        with suppress(asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]))
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body)

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", opened
        for writer in opened:
            writer.close()
            await writer.wait_closed()


async def test_a_connection_is_not_used_again_after_a_failure() -> None:
    """vLLM closes it after a failure that it did not expect, and the next request would be lost."""
    async with _counting_server(500) as (url, opened):
        client = EngineClient(url, keepalive=60)
        for _ in range(2):
            with pytest.raises(EngineFailed, match="status 500"):
                await client.chat(CHAT)
        assert len(opened) == 2
        await client.aclose()


_DEVELOPER = "messages.0.ChatCompletionDeveloperMessageParam"


def _refusals(*error: str, **ctx: str) -> str:
    """The message of a refusal of vLLM's with one of pydantic's errors, as vLLM 0.32 writes it."""
    return f"1 validation error:{_refusal(*error, **ctx)}"


def _refusal(kind: str, field: str, must_be: str, given: str, **ctx: str) -> str:
    error: dict[str, Any] = {"type": kind, "loc": f"body.{field}", "msg": f"Input should be {must_be}"}
    return f"\n  {error | {'input': given} | ({'ctx': ctx} if ctx else {})}"


@pytest.mark.parametrize(
    ("message", "param", "text"),
    [
        (_refusals("float_parsing", "temperature", "a valid number", "hot"), "temperature",
         "temperature must be a number, not hot."),
        (_refusals("string_type", "stop", "a string", "5") + _refusal("list_type", "stop", "a list", "5"),
         "stop", "stop must be text or a list, not 5."),
        (_refusals("string_type", f"{_DEVELOPER}.content", "a valid string", "None")
         + _refusal("iterable_type", f"{_DEVELOPER}.content", "iterable", "None")
         + _refusal("literal_error", f"{_DEVELOPER}.role", "'developer'", "user", expected="'developer'")
         + "\n  ...and 16 more errors",
         "messages.0.content", "messages.0.content must be text or a list, not None."),
        (_refusals("missing", "tools.0.function", "there", "<dict of 0 items>"), "tools.0.function",
         "tools.0.function is missing."),
        (_refusals("literal_error", "reasoning_effort", "'a' or 'b'", "x", expected="'a' or 'b'"),
         "reasoning_effort", "reasoning_effort must be 'a' or 'b', not x."),
        (_refusals("new_in_pydantic", "stop", "a vegetable", "x"), "stop",
         "stop must be a vegetable, not x."),
        ("top_p must be in (0, 1], got 2.0. (parameter=top_p, value=2.0)", "its own",
         "top_p must be in (0, 1], got 2.0."),
        ("its words:\n{'a': __import__('os')}", "its own", "its words:\n{'a': __import__('os')}"),
    ],
)  # fmt: skip
async def test_what_vllm_refuses_is_said_in_english(
    serve: Serve, message: str, param: str, text: str
) -> None:
    refusal = {"error": {"message": message, "type": "BadRequest", "param": "body.its own", "code": 400}}
    client = EngineClient(socket=await serve(plain(400, refusal)))
    with pytest.raises(RequestError) as failure:
        await client.chat(CHAT)
    assert (failure.value.param, failure.value.message) == (param, text)
    await client.aclose()
