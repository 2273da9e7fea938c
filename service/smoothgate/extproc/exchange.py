"""One request of Envoy's on its way through the filter: a stream of messages as a request of ASGI.

Envoy lets a request pass where a stream ends without an error. Therefore none ends early here without a
refusal or an error.
"""

from __future__ import annotations

import asyncio
from typing import Any, Self
from urllib.parse import unquote

import grpc
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import ProcessingModeBodySendMode as Mode
from starlette.types import ASGIApp, Message, Scope

from smoothgate.errors import SmoothgateError
from smoothgate.extproc import replies
from smoothgate.http.error_responses import response_of
from smoothgate.http.outcome_headers import CERTIFICATE, OUTCOME, RADIUS
from smoothgate.http.request_middleware import ID_HEADER
from smoothgate.logs import get_logger

Headers = dict[str, str]

# What has no body has no pictures.
_BODILESS = ("GET", "HEAD", "OPTIONS")
_OK = 200

log = get_logger("extproc")


async def exchange(app: ASGIApp, stream: Any) -> None:
    """Let a request pass, changed or not, or refuse it; then put its outcome on the response.

    Args:
        app: reads the request; see `smoothgate.http.filter_app`.
        stream: of gRPC, with the messages of one request.

    Raises:
        grpc.aio.AbortError: Envoy breaks its protocol, or the application has not answered.
    """
    async with _Messages(stream) as messages:
        first = await messages.get()
        if first is None or first.request_headers is None:
            await stream.abort(grpc.StatusCode.INVALID_ARGUMENT, "A stream begins with headers of a request.")
        if (problem := _problem(first)) is not None:
            log.error("the gateway is set up wrongly", reason=problem)
            refusal = response_of(SmoothgateError(problem, code="bad_gateway_setup"))
            headers, body = dict(refusal.headers), bytes(refusal.body)
            await stream.write(replies.immediate(refusal.status_code, headers, body))
            return
        scope = _scope(first.request_headers)
        if first.request_headers.end_of_stream and scope["method"] in _BODILESS:
            await stream.write(replies.request_headers({}))
            await _respond(stream, messages, {})
        else:
            streamed = first.protocol_config.request_body_mode == Mode.FULL_DUPLEX_STREAMED
            empty = first.request_headers.end_of_stream
            await _filtered(app, scope, stream, _Body(stream, messages, streamed=streamed, empty=empty))


async def _filtered(app: ASGIApp, scope: Scope, stream: Any, body: _Body) -> None:
    answer = _Answer()
    await app(scope, body.receive, answer.send)
    if body.overtaken:
        await stream.write(replies.response_headers({}))
        return
    if not answer.complete:
        await stream.abort(grpc.StatusCode.INTERNAL, "The filter has failed.")
    if answer.status != _OK:
        await stream.write(replies.immediate(answer.status, answer.headers, answer.body))
        return
    outcome = answer.named(ID_HEADER, OUTCOME, RADIUS)
    if body.streamed:
        await stream.write(replies.request_headers(outcome))
        for piece in replies.streamed_body(answer.body, trailers=body.trailers):
            await stream.write(piece)
    else:
        await stream.write(replies.whole_body(answer.body, outcome))
    await _respond(stream, body.messages, answer.named(ID_HEADER, OUTCOME, RADIUS, CERTIFICATE))


async def _respond(stream: Any, messages: _Messages, headers: Headers) -> None:
    """Put headers on the response, if Envoy shows it."""
    while (message := await messages.get()) is not None:
        if message.response_headers is None:
            await stream.abort(grpc.StatusCode.INVALID_ARGUMENT, "Of responses, the headers alone are read.")
        await stream.write(replies.response_headers(headers))


class _Messages:
    """What Envoy says, in order. Whoever waits for it may be cancelled, but no read of gRPC: it would lose a
    message.

    Args:
        stream: of gRPC.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._queue: asyncio.Queue[Any] = asyncio.Queue(1)

    async def __aenter__(self) -> Self:
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reading.cancel()

    async def get(self) -> Any:
        """The next message; None: there is none any more."""
        message = await self._queue.get()
        if message is None:
            self._queue.put_nowait(None)
        return message

    async def _read(self) -> None:
        while (message := await self._stream.read()) is not grpc.aio.EOF:
            await self._queue.put(message)
        await self._queue.put(None)


def _problem(first: Any) -> str | None:
    """What is wrong with the way in which Envoy sends messages; None: nothing."""
    config = first.protocol_config
    if config is None:
        return "The gateway does not say how it sends bodies: it must be Envoy 1.34 or newer."
    if config.request_body_mode not in (Mode.FULL_DUPLEX_STREAMED, Mode.BUFFERED):
        return "request_body_mode must be FULL_DUPLEX_STREAMED or BUFFERED: others let pictures pass."
    if config.response_body_mode != Mode.NONE:
        return "response_body_mode must be NONE: bodies of responses are not read."
    return None


def _scope(headers: Any) -> Scope:
    """The request as ASGI's; Envoy gives method, path and host as headers whose names begin with a colon."""
    # Envoy sends values as bytes; as text where it is set up so.
    pairs = [(one.key.lower(), one.raw_value or one.value.encode()) for one in headers.headers.headers]
    special = {name: value.decode("latin-1") for name, value in pairs if name.startswith(":")}
    path, _, query = special.get(":path", "").partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": special.get(":method", ""),
        "scheme": special.get(":scheme", "http"),
        "path": unquote(path),
        "raw_path": path.encode("latin-1"),
        "query_string": query.encode("latin-1"),
        "root_path": "",
        "headers": [(name.encode(), value) for name, value in pairs if not name.startswith(":")],
        "client": None,
        "server": None,
    }


class _Body:
    """The body of a request, as Envoy sends it.

    Args:
        stream: of gRPC.
        messages: of Envoy's, behind the headers of the request.
        streamed: whether the body comes in pieces; else Envoy sends it once it may go on from the headers.
        empty: whether there is none.

    Attributes:
        trailers: whether they followed it.
        overtaken: whether Envoy has answered the request itself, and shows that answer.
    """

    def __init__(self, stream: Any, messages: _Messages, *, streamed: bool, empty: bool) -> None:
        self.messages = messages
        self.streamed = streamed
        self.trailers = False
        self.overtaken = False
        self._stream = stream
        self._empty = empty
        self._ended = False

    async def receive(self) -> Message:
        """The next piece; behind the last one, the news that the client has left."""
        if self._empty and not self._ended:
            return self._piece(b"", ends=True)
        if not self.streamed and not self._ended:
            await self._stream.write(replies.request_headers({}))
        message = await self.messages.get()
        if message is not None and not self._ended:
            if message.request_trailers is not None:
                self.trailers = True
                return self._piece(b"", ends=True)
            if (body := message.request_body) is not None:
                return self._piece(body.body, ends=body.end_of_stream or not self.streamed)
        self.overtaken = message is not None and message.response_headers is not None
        return {"type": "http.disconnect"}

    def _piece(self, body: bytes, *, ends: bool) -> Message:
        self._ended = ends
        return {"type": "http.request", "body": body, "more_body": not ends}


class _Answer:
    """What the application answers.

    Attributes:
        status, headers, body: of its response; names in lower case, without the length of the body.
        complete: whether it has ended.
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers: Headers = {}
        self.body = b""
        self.complete = False

    async def send(self, message: Message) -> None:
        """Take a message of the application's."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            pairs = {name.decode().lower(): value.decode("latin-1") for name, value in message["headers"]}
            self.headers = {name: value for name, value in pairs.items() if name != "content-length"}
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")
            self.complete = not message.get("more_body", False)

    def named(self, *names: str) -> Headers:
        """The headers of these names, where they are there."""
        found = {name.lower(): self.headers.get(name.lower()) for name in names}
        return {name: value for name, value in found.items() if value is not None}
