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

from service.errors import (
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

Json = dict[str, Any]

CONNECT_SECONDS = 5.0
# vLLM's server drops idle connections after 5 s: ours go first, or a request may be sent into a closing one.
KEEPALIVE_SECONDS = 2.0


class Route(StrEnum):
    """The routes of vLLM that may be called."""

    CHAT = "/v1/chat/completions"
    MODELS = "/v1/models"
    HEALTH = "/health"
    METRICS = "/metrics"


class EngineClient:
    """OpenAI's chat API as vLLM speaks it, with every failure as an exception of `service.errors`.

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
        with self._counted():
            response = await self._post_chat(body | {"stream": False}, request_id)
            async with aclosing(response):
                try:
                    await response.aread()
                except httpx.TransportError as error:
                    raise _transport_failure(error) from error
        answer = _parsed(response.content)
        _refuse_unfinished(answer)
        return answer

    async def stream(self, body: Json, request_id: str | None = None) -> ChatStream:
        """Start a streamed answer. Returns when vLLM has accepted the request, so that refusals raise here.

        Raises: as `chat`.
        """
        with ExitStack() as stack:
            stack.enter_context(self._counted())
            response = await self._post_chat(body | {"stream": True}, request_id)
            return ChatStream(response, on_close=stack.pop_all().close)

    async def models(self) -> list[Json]:
        """The models that vLLM serves, as its `/v1/models` lists them."""
        response = await self._send(self._http.build_request("GET", Route.MODELS))
        async with aclosing(response):
            await response.aread()
        models: list[Json] = _parsed(response.content).get("data", [])
        return models

    async def metrics(self) -> str:
        """vLLM's own metrics in Prometheus' text format."""
        response = await self._send(self._http.build_request("GET", Route.METRICS))
        async with aclosing(response):
            return (await response.aread()).decode()

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

    async def _post_chat(self, body: Json, request_id: str | None) -> httpx.Response:
        if not self._ready():
            raise NotReady("The engine is not ready yet.", retry_after=5.0)
        try:
            content = json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        except ValueError as error:  # NaN, infinity, half of a surrogate pair: no JSON, but Python reads them
            raise MalformedRequest(
                "The request holds a number or a character that JSON cannot carry."
            ) from error
        headers = {"Content-Type": "application/json"}
        if request_id is not None:
            headers["X-Request-Id"] = request_id
        return await self._send(
            self._http.build_request("POST", Route.CHAT, content=content, headers=headers)
        )

    async def _send(self, request: httpx.Request) -> httpx.Response:
        """Send, and return the open response if vLLM accepted the request."""
        try:
            response = await self._http.send(request, stream=True)
        except httpx.TransportError as error:
            if isinstance(error, httpx.ConnectError) and not self._ready():
                raise NotReady("The engine is not ready yet.", retry_after=5.0) from error
            raise _transport_failure(error) from error
        if response.is_success:
            return response
        async with aclosing(response):
            try:
                await response.aread()
            except httpx.TransportError as error:
                raise _transport_failure(error) from error
        raise _refusal(response)


class ChatStream:
    """The chunks of one streamed answer, as parsed JSON objects.

    Ends after vLLM's `[DONE]`; a stream that breaks off, an error frame and an aborted generation raise.
    Close it (`aclose`, or `async with`) to make vLLM drop a request that nobody waits for.
    """

    def __init__(self, response: httpx.Response, on_close: Callable[[], None]) -> None:
        self._response = response
        self._on_close = on_close
        self._events = _events(response)
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Json:
        if self._ended:
            raise StopAsyncIteration
        try:
            data = await anext(self._events, None)
        except httpx.TransportError as error:
            await self.aclose()
            raise _transport_failure(error) from error
        if data == b"[DONE]":
            await self.aclose()
            raise StopAsyncIteration
        try:
            if data is None:
                raise EngineFailed("The engine broke off its answer.")
            chunk = _parsed(data)
            if "error" in chunk:
                raise _error_frame(chunk["error"])
            _refuse_unfinished(chunk)
        except SmoothgateError:
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
    for choice in answer.get("choices", ()):
        if choice.get("finish_reason") in ("abort", "error"):
            raise EngineFailed("The engine stopped before the answer was complete.")


def _transport_failure(error: httpx.TransportError) -> EngineFailed:
    if isinstance(error, httpx.TimeoutException):
        return EngineTimedOut("The engine did not answer in time.")
    if isinstance(error, httpx.ConnectError):
        return EngineFailed("The engine cannot be reached.")
    return EngineFailed("The engine closed the connection before its answer was complete.")


def _refusal(response: httpx.Response) -> SmoothgateError:
    try:
        detail = json.loads(response.content)["error"]
        message, param = str(detail["message"]), detail.get("param")
    except (ValueError, KeyError, TypeError, AttributeError):
        message, param = f"The engine answered with status {response.status_code}.", None
    return _failure(response.status_code, message, param, response.headers.get("Retry-After"))


def _error_frame(detail: Any) -> SmoothgateError:
    if not isinstance(detail, dict):
        return EngineFailed("The engine reported a failure.")
    code = detail.get("code")
    return _failure(
        code if isinstance(code, int) else 500, str(detail.get("message")), detail.get("param"), None
    )


def _failure(status: int, message: str, param: str | None, retry_after: str | None) -> SmoothgateError:
    """A status of vLLM as an exception of ours. What a client can mend keeps vLLM's words and status."""
    refusals: dict[int, type[RequestError]] = {
        400: RequestError,
        404: UnknownModel,
        413: TooLarge,
        422: Unacceptable,
    }
    if status in refusals:
        return refusals[status](message, param=param.removeprefix("body.") if param else None)
    seconds = float(retry_after) if retry_after and retry_after.isdecimal() else 5.0
    if status == 429:
        return Overloaded("The engine is overloaded.", retry_after=seconds)
    if status == 503:
        return NotReady("The engine is not ready.", retry_after=seconds)
    if status in (408, 504):
        return EngineTimedOut("The engine did not answer in time.")
    return EngineFailed(f"The engine failed with status {status}.")
