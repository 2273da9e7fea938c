"""The client of vLLM, for our own child on a Unix socket and for a deployment behind a URL.

It calls only the routes in `Route`. vLLM serves many more, and some of them would let pixels or embeddings
around the smoothing.
"""

from __future__ import annotations

import asyncio
import json
import socket as socket_module
import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import ExitStack, aclosing, contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from smoothgate.compat.closing_transport import ClosingTransport
from smoothgate.engine import failures
from smoothgate.engine.failures import RETRY_SECONDS
from smoothgate.errors import (
    EngineFailed,
    EngineTimedOut,
    MalformedRequest,
    NotReady,
    SmoothgateError,
)
from smoothgate.off_loop import off_loop
from smoothgate.tracing import EngineCall

Json = dict[str, Any]

CONNECT_SECONDS = 5.0
# vLLM's server closes idle connections after 5 s by default. The client closes them earlier, so that it sends
# no request into a closing connection.
KEEPALIVE_SECONDS = 2.0
# A connection to a machine that is gone is noticed after a minute, also while nothing is sent.
_SOCKET_OPTIONS = [
    (socket_module.SOL_SOCKET, socket_module.SO_KEEPALIVE, 1),
    *(
        (socket_module.IPPROTO_TCP, getattr(socket_module, name), value)
        for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
        if hasattr(socket_module, name)  # Linux has them
    ),
]


class Route(StrEnum):
    """The routes of vLLM that the client may call."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    TOKENIZE = "/tokenize"
    MODELS = "/v1/models"
    HEALTH = "/health"
    VERSION = "/version"


class EngineClient:
    """OpenAI's chat API as vLLM implements it. Every failure is an exception of `smoothgate.errors`.

    Args:
        base_url: the address of a running vLLM, without `/v1`. It is only a name if `socket` is given.
        socket: the Unix socket of a local vLLM.
        api_key: sent as a bearer token.
        read_timeout: the longest silence in seconds: before the first token, between two tokens, and before a
            whole answer that is not streamed.
        keepalive: seconds that an idle connection is kept; fewer than vLLM keeps it.
        ready: called before each request. While it returns False, requests raise `NotReady` at once.

    Attributes:
        chat_timed_out: True after a chat has run into the read timeout, until any chat receives data again.
    """

    def __init__(
        self,
        base_url: str = "http://engine",
        *,
        socket: Path | None = None,
        api_key: str | None = None,
        read_timeout: float = 60.0,
        keepalive: float = KEEPALIVE_SECONDS,
        ready: Callable[[], bool] = lambda: True,
    ) -> None:
        limits = httpx.Limits(max_connections=None, keepalive_expiry=keepalive)
        self._ready = ready
        self.chat_timed_out = False
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._http = httpx.AsyncClient(
            base_url=base_url,
            # A proxy of the environment would see prompts, and the key.
            trust_env=False,
            transport=ClosingTransport(
                trust_env=False,
                limits=limits,
                uds=str(socket) if socket else None,
                socket_options=None if socket else _SOCKET_OPTIONS,
            ),
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(read_timeout, connect=CONNECT_SECONDS),
        )

    async def chat(self, body: Json, request_id: str | None = None) -> Json:
        """Ask for a whole answer.

        Args:
            body: the request, in OpenAI's format.
            request_id: sent as `X-Request-Id`; vLLM uses it for the answer's id.

        Raises:
            RequestError: vLLM refused the client's parameters. Status, message and field are vLLM's.
            NotReady: the engine is not ready.
            EngineFailed: the engine failed or its answer is incomplete.
            EngineTimedOut: the engine did not answer within the read timeout.
        """
        return await self._whole(Route.CHAT, body, request_id)

    async def completions(self, body: Json, prompts: Sequence[bytes], request_id: str | None = None) -> Json:
        """Ask for whole answers to prompts that are no chats; raises as `chat`.

        Args:
            body: the request, without its prompts.
            prompts: embeddings in base64, at least one.
            request_id: as `chat`.
        """
        return await self._whole(Route.COMPLETIONS, body, request_id, prompts)

    async def tokens(self, body: Json) -> tuple[list[int], int]:
        """The tokens of a chat's prompt, and how many the model's context holds; raises as `chat`.

        Args:
            body: model, messages and what else shapes the prompt.
        """
        self._require_ready()
        with ExitStack() as stack:
            call = self._begin(stack)
            response = await self._post(Route.TOKENIZE, body, None, call)
            answer = _parsed(await self._read(response))
        tokens, context = answer.get("tokens"), answer.get("max_model_len")
        if not isinstance(tokens, list) or not isinstance(context, int):
            raise EngineFailed("The engine does not say what the tokens of a prompt are.")
        return tokens, context

    async def _whole(
        self, route: Route, body: Json, request_id: str | None, prompts: Sequence[bytes] = ()
    ) -> Json:
        self._require_ready()
        with ExitStack() as stack:
            call = self._begin(stack)
            response = await self._post(route, body | {"stream": False}, request_id, call, prompts)
            answer = await off_loop(_parsed, await self._read(response))
        self.chat_timed_out = False
        _refuse_unfinished(answer)
        return answer

    async def probe(self, body: Json) -> None:
        """Ask as `chat` does, even while the engine is not ready, and forget the answer.

        Raises: as `chat`.
        """
        with ExitStack() as stack:
            call = self._begin(stack)
            await self._read(await self._post(Route.CHAT, body | {"stream": False}, "probe", call))

    async def stream(self, body: Json, request_id: str | None = None) -> ChatStream:
        """Ask for a streamed answer. Returns when vLLM has accepted the request, so that refusals raise here.

        Takes the arguments of `chat` and raises its exceptions.
        """
        self._require_ready()
        with ExitStack() as stack:
            call = self._begin(stack)
            response = await self._post(Route.CHAT, body | {"stream": True}, request_id, call)
            constraint = failures.constraint_of(body)
            return ChatStream(self, response, constraint, on_close=stack.pop_all().close)

    async def models(self) -> list[Json]:
        """The models that vLLM serves, as its `/v1/models` lists them."""
        response = await self._send(self._http.build_request("GET", Route.MODELS))
        models: list[Json] = _parsed(await self._read(response)).get("data", [])
        return models

    async def version(self) -> str | None:
        """The version of vLLM; None where it does not say, as behind a router."""
        try:
            with self.translated_errors():
                response = await self._http.get(Route.VERSION)
            version = _parsed(response.content).get("version") if response.is_success else None
        except SmoothgateError:
            return None
        return version if isinstance(version, str) else None

    async def health(self, within: float = 5.0) -> bool:
        """Whether vLLM reports within `within` seconds that it is healthy. Never raises."""
        try:
            return (await self._http.get(Route.HEALTH, timeout=within)).is_success
        except httpx.HTTPError:
            return False

    async def drained(self, within: float) -> None:
        """Wait until no chat is in flight, for at most `within` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._idle.wait()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    def _require_ready(self) -> None:
        if not self._ready():
            raise NotReady("The engine is not ready yet.", retry_after=RETRY_SECONDS)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    def _begin(self, stack: ExitStack) -> EngineCall:
        stack.enter_context(self._counted())
        call = EngineCall()
        stack.callback(call.end)
        return call

    async def _post(
        self,
        route: Route,
        body: Json,
        request_id: str | None,
        call: EngineCall,
        prompts: Sequence[bytes] = (),
    ) -> httpx.Response:
        content = await off_loop(_content, body, prompts)
        headers = {"Content-Type": "application/json", **call.headers()}
        if request_id is not None:
            headers["X-Request-Id"] = request_id
        request = self._http.build_request("POST", route, content=content, headers=headers)
        return await self._send(request, failures.constraint_of(body))

    async def _send(self, request: httpx.Request, constraint: str | None = None) -> httpx.Response:
        """Send a request. Returns the open response if vLLM accepted it."""
        with self.translated_errors():
            response = await self._http.send(request, stream=True)
        if not response.is_success:
            raise failures.from_response(await self._read_once(response), constraint)
        return response

    async def _read_once(self, response: httpx.Response) -> httpx.Response:
        """A failure, whose connection is not used again.

        vLLM closes the connection after a failure that it did not expect. A request that is sent on it
        meanwhile would be lost. A response that is closed before its end closes its connection.
        """
        length = int(response.headers.get("Content-Length", sys.maxsize))
        content = b""
        async with aclosing(response):
            with self.translated_errors():
                async for piece in response.aiter_raw():
                    content += piece
                    if len(content) >= length:
                        break
        return httpx.Response(response.status_code, headers=response.headers, content=content)

    async def _read(self, response: httpx.Response) -> bytes:
        async with aclosing(response):
            with self.translated_errors():
                return await response.aread()

    @contextmanager
    def translated_errors(self) -> Iterator[None]:
        """Turn httpx's exceptions into those of `smoothgate.errors`."""
        try:
            yield
        except httpx.TimeoutException as error:
            self.chat_timed_out = True
            raise EngineTimedOut("The engine did not answer in time.") from error
        except httpx.ConnectError as error:
            if not self._ready():
                raise NotReady("The engine is not ready yet.", retry_after=RETRY_SECONDS) from error
            raise EngineFailed("The engine cannot be reached.") from error
        except httpx.RequestError as error:
            raise EngineFailed("The engine closed the connection before its answer was complete.") from error


class ChatStream:
    """The chunks of one streamed answer, as parsed JSON objects.

    Ends after vLLM's `[DONE]`. Raises if the stream breaks off, for an error frame and if generation was
    aborted. Close it (`aclose` or `async with`) to make vLLM drop a request that nobody waits for.
    """

    def __init__(
        self,
        client: EngineClient,
        response: httpx.Response,
        constraint: str | None,
        on_close: Callable[[], None],
    ) -> None:
        self._client = client
        self._response = response
        self._constraint = constraint
        self._on_close = on_close
        self._events = _events(response)
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Json:
        if self._ended:
            raise StopAsyncIteration
        try:
            with self._client.translated_errors():
                data = await anext(self._events, None)
            if data is None:
                raise EngineFailed("The engine broke off its answer.")
            self._client.chat_timed_out = False
            if data == b"[DONE]":
                raise StopAsyncIteration
            chunk = _parsed(data)
            if "error" in chunk:
                raise failures.from_frame(chunk["error"], self._constraint)
            _refuse_unfinished(chunk)
        except BaseException:
            await self.aclose()
            raise
        return chunk

    async def aclose(self) -> None:
        """Close the connection. vLLM aborts the request if it still runs."""
        self._ended = True
        self._on_close()
        await self._events.aclose()
        await self._response.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


async def _events(response: httpx.Response) -> AsyncGenerator[bytes]:
    """The payloads of `data:` lines. httpx's own line reader also splits at U+2028 and similar characters."""
    rest = b""
    async for piece in response.aiter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[len(b"data:") :].strip()


def _parsed(data: bytes) -> Json:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise EngineFailed("The engine's answer is not JSON.") from error
    if not isinstance(value, dict):
        raise EngineFailed("The engine's answer is not a JSON object.")
    return value


def encoded(value: Any, field: str | None = None) -> bytes:
    """JSON, string by string: Python's lock is free between two, and one may hold 10 MiB of visual tokens.

    Args:
        value: the body of a request, or a part of it.
        field: which part, for the error.

    Raises:
        MalformedRequest: Python reads infinite numbers and half a surrogate pair, but JSON has none of them.
    """
    encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
    try:
        return b"".join(piece.encode() for piece in encoder.iterencode(value))
    except ValueError as error:
        raise MalformedRequest(
            f"{field or 'The request'} holds a number or a character that JSON cannot represent.", param=field
        ) from error


def _content(body: Json, prompts: Sequence[bytes]) -> bytes:
    content = encoded(body)
    if prompts:
        # Base64 needs no escapes, and is nearly all of such a body.
        content = b"".join((content[:-1], b', "prompt_embeds": ["', b'", "'.join(prompts), b'"]}'))
    return content


def _refuse_unfinished(answer: Json) -> None:
    """Raise for a request that vLLM dropped: it has status 200, a partial text and one of these reasons."""
    choices = answer.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and choice.get("finish_reason") in ("abort", "error"):
            raise EngineFailed("The engine stopped before the answer was complete.")
