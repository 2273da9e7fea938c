"""What Envoy says to the filter, said by a test: for what a real Envoy does not do, or shows to nobody."""

import json
import queue
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from envoy_data_plane.envoy.config.core.v3 import HeaderMap, HeaderValue
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import ProcessingModeBodySendMode as Mode
from envoy_data_plane.envoy.service.ext_proc.v3 import (
    HttpBody,
    HttpHeaders,
    HttpTrailers,
    ProcessingRequest,
    ProcessingResponse,
    ProtocolConfiguration,
)

from smoothgate.extproc.filter_server import SERVICE
from smoothgate.http.openai_routes import ROUTE
from tests.extproc.running_filter import Filter

STREAMED, BUFFERED = Mode.FULL_DUPLEX_STREAMED, Mode.BUFFERED


class Stream:
    """The messages about one request."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._said: queue.Queue[Any] = queue.Queue()
        call = channel.stream_stream(
            f"/{SERVICE}/Process", request_serializer=bytes, response_deserializer=ProcessingResponse.parse
        )
        self.call: Any = call(iter(self._said.get, None), timeout=60)

    def headers(
        self,
        method: str = "POST",
        path: str = ROUTE,
        *,
        mode: Any = STREAMED,
        response: Any = Mode.NONE,
        ends: bool = False,
        **headers: Any,
    ) -> None:
        pairs = {":method": method, ":path": path, ":scheme": "http", ":authority": "gate"}
        pairs |= {"content-type": "application/json", "x-request-id": "one"}
        pairs |= {name.replace("_", "-"): value for name, value in headers.items()}
        values = [HeaderValue(key=name, raw_value=value.encode()) for name, value in pairs.items()]
        config = None
        if mode is not None:
            config = ProtocolConfiguration(request_body_mode=mode, response_body_mode=response)
        self.say(
            request_headers=HttpHeaders(headers=HeaderMap(headers=values), end_of_stream=ends),
            protocol_config=config,
        )

    def body(self, piece: bytes, *, ends: bool = True) -> None:
        self.say(request_body=HttpBody(body=piece, end_of_stream=ends))

    def trailers(self) -> None:
        self.say(request_trailers=HttpTrailers(trailers=HeaderMap()))

    def response(self) -> Any:
        """What is put on the response."""
        self.say(response_headers=HttpHeaders(headers=HeaderMap()))
        return self.hear().response_headers.response.header_mutation

    def say(self, **message: Any) -> None:
        self._said.put(ProcessingRequest(**message))

    def hear(self) -> Any:
        return next(self.call)

    def end(self) -> None:
        self._said.put(None)


@dataclass(frozen=True)
class Passed:
    """A request that goes on to vLLM."""

    body: bytes
    headers: dict[str, str]
    removed: Sequence[str]
    on_response: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Refused:
    """A request that the client gets an answer to at once."""

    status: int
    headers: dict[str, str]
    body: Any

    @property
    def error(self) -> Any:
        assert set(self.body["error"]) == {"message", "type", "param", "code"}
        return self.body["error"]


@contextmanager
def streaming(to: Filter) -> Iterator[Stream]:
    """The messages about one request; they end with the block."""
    with grpc.insecure_channel(to.address, options=[("grpc.max_receive_message_length", -1)]) as channel:
        stream = Stream(channel)
        try:
            yield stream
        finally:
            stream.end()


def ask(to: Filter, body: Any, *, mode: Any = STREAMED, **headers: Any) -> Passed | Refused:
    """What becomes of a request with this body: bytes, or something as JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with streaming(to) as stream:
        stream.headers(mode=mode, **headers)
        first: Any = None
        if mode == BUFFERED:
            first = stream.hear()
            if first.immediate_response is not None:
                return refusal(first)
        half = len(raw) // 2
        if mode == STREAMED:
            stream.body(raw[:half], ends=False)
            raw = raw[half:]
        stream.body(raw)
        heard = stream.hear()
        if heard.immediate_response is not None:
            return refusal(heard)
        if mode == BUFFERED:
            common = heard.request_body.response
            return Passed(
                common.body_mutation.body,
                _set(common.header_mutation),
                first.request_headers.response.header_mutation.remove_headers,
                _set(stream.response()),
            )
        mutation = heard.request_headers.response.header_mutation
        pieces = [b""]
        while True:
            piece = stream.hear().request_body.response.body_mutation.streamed_response
            pieces.append(piece.body)
            if piece.end_of_stream:
                break
        return Passed(b"".join(pieces), _set(mutation), mutation.remove_headers, _set(stream.response()))


def refusal(message: Any) -> Refused:
    """An answer to the client."""
    answer = message.immediate_response
    return Refused(int(answer.status.code), _set(answer.headers), json.loads(answer.body))


def _set(mutation: Any) -> dict[str, str]:
    return {one.header.key: one.header.raw_value.decode() for one in mutation.set_headers}
