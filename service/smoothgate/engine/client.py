"""The one way to talk to vLLM, be it our own child on a Unix socket or a deployment behind a URL.

Four routes are ever called (`Route`): vLLM serves many more, some of which would let pixels or embeddings
around the smoothing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack, aclosing, contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from smoothgate.engine import failures
from smoothgate.engine.failures import RETRY_SECONDS
from smoothgate.errors import EngineFailed, EngineTimedOut, MalformedRequest, NotReady
from smoothgate.tracing import EngineCall

Json = dict[str, Any]

CONNECT_SECONDS = 5.0
# vLLM's server drops idle connections after 5 s unless told otherwise: ours go first, or a request may be
# sent into a closing one.
KEEPALIVE_SECONDS = 2.0


class Route(StrEnum):
    """The routes of vLLM that may be called."""

    CHAT = "/v1/chat/completions"
    MODELS = "/v1/models"
    HEALTH = "/health"
    METRICS = "/metrics"


class EngineClient:
    """OpenAI's chat API as vLLM speaks it, with every failure as an exception of `smoothgate.errors`.

    Args:
        base_url: of a running vLLM, without `/v1`. Only a name where `socket` is given.
        socket: the Unix socket of a local vLLM.
        api_key: sent as a bearer token.
        read_timeout: the longest silence in seconds: before the first token, between two tokens, and before a
            whole answer that is not streamed.
        ready: asked before each request; while it says no, requests end in `NotReady` at once.
    """

    def __init__(
        self,
        base_url: str = "http://engine",
        *,
        socket: Path | None = None,
        api_key: str | None = None,
        read_timeout: float = 60.0,
        ready: Callable[[], bool] = lambda: True,
    ) -> None:
        limits = httpx.Limits(max_connections=None, keepalive_expiry=KEEPALIVE_SECONDS)
        self._ready = ready
        # True after a chat ran into the read timeout, until any chat brings something again.
        self.silent = False
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._http = httpx.AsyncClient(
            base_url=base_url,
            transport=httpx.AsyncHTTPTransport(uds=str(socket), limits=limits) if socket else None,
            limits=limits,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(read_timeout, connect=CONNECT_SECONDS),
        )

    async def chat(self, body: Json, request_id: str | None = None) -> Json:
        """One whole answer.

        Raises:
            RequestError: vLLM refused the client's own parameters; status, message and field are vLLM's.
            NotReady, EngineFailed, EngineTimedOut: as their names say.
        """
        with ExitStack() as stack:
            call = self._begin(stack)
            response = await self._post_chat(body | {"stream": False}, request_id, call)
            answer = _parsed(await self._read(response))
        self.silent = False
        _refuse_unfinished(answer)
        return answer

    async def stream(self, body: Json, request_id: str | None = None) -> ChatStream:
        """Start a streamed answer. Returns when vLLM has accepted the request, so that refusals raise here.

        Raises: as `chat`.
        """
        with ExitStack() as stack:
            call = self._begin(stack)
            response = await self._post_chat(body | {"stream": True}, request_id, call)
            constraint = failures.constraint_of(body)
            return ChatStream(self, response, constraint, on_close=stack.pop_all().close)

    async def models(self) -> list[Json]:
        """The models that vLLM serves, as its `/v1/models` lists them."""
        response = await self._send(self._http.build_request("GET", Route.MODELS))
        models: list[Json] = _parsed(await self._read(response)).get("data", [])
        return models

    async def metrics(self) -> str:
        """vLLM's own metrics in Prometheus' text format."""
        response = await self._send(self._http.build_request("GET", Route.METRICS))
        await self._read(response)
        return response.text

    async def health(self, within: float = 5.0) -> bool:
        """Whether vLLM says within `within` seconds that it is well. Never raises."""
        try:
            return (await self._http.get(Route.HEALTH, timeout=within)).is_success
        except httpx.HTTPError:
            return False

    async def drained(self, within: float) -> None:
        """Wait until no chat is in flight, but no longer than `within` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._idle.wait()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

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

    async def _post_chat(self, body: Json, request_id: str | None, call: EngineCall) -> httpx.Response:
        if not self._ready():
            raise NotReady("The engine is not ready yet.", retry_after=RETRY_SECONDS)
        try:
            content = json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        except ValueError as error:  # NaN, infinity, half of a surrogate pair: no JSON, but Python reads them
            raise MalformedRequest(
                "The request holds a number or a character that JSON cannot carry."
            ) from error
        headers = {"Content-Type": "application/json", **call.headers()}
        if request_id is not None:
            headers["X-Request-Id"] = request_id
        request = self._http.build_request("POST", Route.CHAT, content=content, headers=headers)
        return await self._send(request, failures.constraint_of(body))

    async def _send(self, request: httpx.Request, constraint: str | None = None) -> httpx.Response:
        """Send, and return the open response if vLLM accepted the request."""
        with self.translated():
            response = await self._http.send(request, stream=True)
        if not response.is_success:
            await self._read(response)
            raise failures.from_response(response, constraint)
        return response

    async def _read(self, response: httpx.Response) -> bytes:
        async with aclosing(response):
            with self.translated():
                return await response.aread()

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn httpx's exceptions into ours."""
        try:
            yield
        except httpx.TimeoutException as error:
            self.silent = True
            raise EngineTimedOut("The engine did not answer in time.") from error
        except httpx.ConnectError as error:
            if not self._ready():
                raise NotReady("The engine is not ready yet.", retry_after=RETRY_SECONDS) from error
            raise EngineFailed("The engine cannot be reached.") from error
        except httpx.RequestError as error:
            raise EngineFailed("The engine closed the connection before its answer was complete.") from error


class ChatStream:
    """The chunks of one streamed answer, as parsed JSON objects.

    Ends after vLLM's `[DONE]`; a stream that breaks off, an error frame and an aborted generation raise.
    Close it (`aclose`, or `async with`) to make vLLM drop a request that nobody waits for.
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
            with self._client.translated():
                data = await anext(self._events, None)
            if data is None:
                raise EngineFailed("The engine broke off its answer.")
            self._client.silent = False
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
        """Close the connection; vLLM aborts the request if it still runs."""
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
    """The payloads of `data:` lines. httpx's own line reader would also split at U+2028 and its like."""
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
        raise EngineFailed("The engine answered something that is not JSON.") from error
    if not isinstance(value, dict):
        raise EngineFailed("The engine answered something that is not a JSON object.")
    return value


def _refuse_unfinished(answer: Json) -> None:
    """vLLM ends a request that it had to drop with status 200, the partial text and one of these reasons."""
    choices = answer.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and choice.get("finish_reason") in ("abort", "error"):
            raise EngineFailed("The engine stopped before the answer was complete.")
