"""`POST /v1/chat`: the plain REST face, as JSON or as a form with files."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from smoothgate import metrics
from smoothgate.engine import ChatStream
from smoothgate.errors import EngineFailed
from smoothgate.gate.accounts import Account
from smoothgate.gate.chat_images import Slot, find_images
from smoothgate.gate.pipeline import Prepared, Stages, deadline, open_stream, prepare
from smoothgate.gate.runtime import Runtime
from smoothgate.gate.schemas import ChatAnswer, ChatRequest, IssuedCertificate, SmoothingOptions, Timings
from smoothgate.http import openapi_examples, sse
from smoothgate.http.request_body import read
from smoothgate.http.request_state import account_of, measured, request_id, runtime_of, while_connected

router = APIRouter(tags=["Smoothgate"])

Json = dict[str, Any]


@router.post(
    "/v1/chat",
    response_model=ChatAnswer,
    openapi_extra=openapi_examples.chat(),
    responses=openapi_examples.STREAM | openapi_examples.ERRORS,
)
async def chat(request: Request) -> Response:
    """Ask about pictures; the answer comes with one certificate per picture.

    As JSON, or as `multipart/form-data` with `message` and any number of files `image`.
    """
    runtime = runtime_of(request)
    identifier = request_id(request)
    asked, files = await read(request, ChatRequest)
    preparing = _prepared(runtime, account_of(request), asked, files)
    if asked.stream:
        opening = open_stream(runtime, "/v1/chat", preparing, identifier)
        prepared, stream = await while_connected(request, opening)
        return sse.response(_events(runtime, prepared, stream, identifier))
    answer = await while_connected(request, _whole(runtime, preparing, identifier))
    return JSONResponse(answer.model_dump(mode="json"))


async def _prepared(
    runtime: Runtime, account: Account | None, asked: ChatRequest, files: Sequence[bytes]
) -> tuple[Prepared, Json]:
    runtime.require_ready()
    sources: list[str | bytes] = [*asked.images, *files]
    last = len(asked.history)
    slots = find_images(asked.history, "history") if asked.history else []
    slots += [Slot(last, i, source, f"images.{i}") for i, source in enumerate(sources)]
    parts: list[Json] = [{"type": "image_url"} for _ in sources]
    question: Json = {"role": "user", "content": [*parts, {"type": "text", "text": asked.message}]}
    options = asked.smoothing or SmoothingOptions()
    prepared = await prepare(runtime, account, [*asked.history, question], slots, options)
    body: Json = {"model": runtime.model_name, "messages": prepared.messages}
    if asked.stream:
        body["stream_options"] = {"include_usage": True}
    body |= {
        key: value
        for key, value in (("max_tokens", asked.max_tokens), ("temperature", asked.temperature))
        if value is not None
    }
    return prepared, body


async def _whole(
    runtime: Runtime, preparing: Awaitable[tuple[Prepared, Json]], identifier: str
) -> ChatAnswer:
    async with measured("/v1/chat"), deadline(runtime.settings.request_timeout_seconds):
        prepared, body = await preparing
        stages = prepared.stages
        try:
            started = time.perf_counter()
            answer = await runtime.engine.client.chat(body, identifier)
            stages.engine = time.perf_counter() - started
            metrics.STAGE_SECONDS.labels("engine").observe(stages.engine)
            certificates = await prepared.certificates()
        finally:
            prepared.cancel()
    try:
        text = answer["choices"][0]["message"]["content"] or ""
    except (KeyError, IndexError, TypeError) as error:
        raise EngineFailed("The engine's answer holds no message.") from error
    return ChatAnswer(
        id=identifier,
        model=runtime.model_name,
        answer=text,
        certificates=certificates,
        usage=answer.get("usage") or {},
        timings=_timings(stages),
    )


def _timings(stages: Stages) -> Timings:
    return Timings(
        decode=round(stages.decode, 4),
        select=round(stages.select, 4),
        certify=round(stages.certify, 4),
        engine=round(stages.engine, 4),
        total=round(stages.now(), 4),
    )


async def _events(
    runtime: Runtime, prepared: Prepared, stream: ChatStream, identifier: str
) -> AsyncGenerator[str]:
    """`{"id", "model", "delta"}` for each piece of the answer, `{"certificates"}` once, `{"usage",
    "timings"}` last.
    """
    started = time.perf_counter()
    unsent = prepared.issuing
    usage: Json = {}

    def certified(made: Sequence[IssuedCertificate]) -> str:
        return sse.event({"id": identifier, "certificates": [c.model_dump(mode="json") for c in made]})

    try:
        async with measured("/v1/chat"), stream:
            async for chunk in stream:
                usage = chunk.get("usage") or usage
                for choice in chunk.get("choices", []):
                    if text := choice.get("delta", {}).get("content"):
                        yield sse.event({"id": identifier, "model": runtime.model_name, "delta": text})
                if unsent is not None and unsent.done():
                    yield certified(await unsent)
                    unsent = None
            if unsent is not None:
                yield certified(await unsent)
            prepared.stages.engine = time.perf_counter() - started
            timings = _timings(prepared.stages).model_dump()
            yield sse.event({"id": identifier, "usage": usage, "timings": timings})
            yield sse.DONE
    finally:
        prepared.cancel()
