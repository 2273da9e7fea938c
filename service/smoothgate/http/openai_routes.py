"""`POST /v1/chat/completions` and `GET /v1/models`: OpenAI's, with certificates."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import TypeAdapter, ValidationError

from smoothgate import metrics
from smoothgate.engine import ChatStream
from smoothgate.engine.placeholders import neutralise
from smoothgate.errors import MalformedRequest, UnknownModel
from smoothgate.gate.accounts import Account
from smoothgate.gate.chat_images import find_images
from smoothgate.gate.pipeline import Prepared, deadline, open_stream, prepare
from smoothgate.gate.runtime import Runtime
from smoothgate.gate.schemas import IssuedCertificate, SmoothingOptions
from smoothgate.http import error_responses, openapi_examples, sse
from smoothgate.http.request_body import parsed
from smoothgate.http.request_state import account_of, measured, request_id, runtime_of, while_connected

router = APIRouter()
ROUTE = "/v1/chat/completions"

Json = dict[str, Any]

_STREAM = TypeAdapter[bool | None](bool | None)


@router.get("/v1/models", tags=["OpenAI"], responses=openapi_examples.DOOR)
async def models(request: Request) -> Json:
    """The one model served, in OpenAI's form."""
    runtime = runtime_of(request)
    name = runtime.model_name
    # `root` is vLLM's, whose `bench serve` reads it.
    card = {"id": name, "object": "model", "created": runtime.created, "owned_by": "smoothgate", "root": name}
    return {"object": "list", "data": [card]}


@router.post(
    ROUTE,
    tags=["OpenAI"],
    openapi_extra=openapi_examples.completions(),
    responses=openapi_examples.STREAM | openapi_examples.ERRORS | openapi_examples.NOT_FOUND,
)
async def chat_completions(request: Request) -> Response:
    """OpenAI's chat completions, streaming included; every other parameter is vLLM's.

    `smoothing` comes in as an extra field. `certificates` goes out as one: in the body, or in a stream in the
    first chunk that is sent after they are known, at the latest in the one that ends the answer.
    """
    runtime = runtime_of(request)
    identifier = request_id(request)
    body = await _json_body(request)
    streamed = _is_streamed(body)
    preparing = _prepared(runtime, account_of(request), body)
    if streamed:
        opening = open_stream(runtime, ROUTE, preparing, identifier)
        prepared, stream = await while_connected(request, opening)
        return sse.response(_chunks(prepared, stream))
    return JSONResponse(await while_connected(request, _whole(runtime, preparing, identifier)))


async def _json_body(request: Request) -> Json:
    body = parsed(await request.body())
    if not isinstance(body, dict):
        raise MalformedRequest("The body must be a JSON object.")
    return body


def _is_streamed(body: Json) -> bool:
    """`stream` as vLLM reads it: "false" is false, and 2 is refused."""
    try:
        return bool(_STREAM.validate_python(body.get("stream")))
    except ValidationError as error:
        raise error_responses.of_validation(error.errors(), prefix="stream") from error


def options_of(value: Any) -> SmoothingOptions:
    """The `smoothing` field of a raw body.

    Raises:
        MalformedRequest: naming the field at fault.
    """
    try:
        return SmoothingOptions.model_validate({} if value is None else value)
    except ValidationError as error:
        raise error_responses.of_validation(error.errors(), prefix="smoothing") from error


async def _prepared(runtime: Runtime, account: Account | None, body: Json) -> tuple[Prepared, Json]:
    """The images dealt with, and the body that vLLM gets."""
    runtime.require_ready()
    if body.get("model") not in (None, "", runtime.model_name):
        raise UnknownModel(f"The model served here is {runtime.model_name}.", param="model")
    options = options_of(body.pop("smoothing", None))
    messages = body.pop("messages", None)
    slots = find_images(messages)
    if slots and body.get("truncate_prompt_tokens") is not None:
        raise MalformedRequest(
            "A prompt with images cannot be truncated.", param="truncate_prompt_tokens", code="unsupported"
        )
    prepared = await prepare(runtime, account, messages, slots, options)
    smoother = runtime.require_ready()
    rest: Json = neutralise(body, smoother.encoder.adapter.placeholders)
    return prepared, rest | {"model": runtime.model_name, "messages": prepared.messages}


async def _whole(runtime: Runtime, preparing: Awaitable[tuple[Prepared, Json]], identifier: str) -> Json:
    async with measured(ROUTE), deadline(runtime.settings.request_timeout_seconds):
        prepared, forwarded = await preparing
        try:
            started = time.perf_counter()
            answer = await runtime.engine.client.chat(forwarded, identifier)
            metrics.STAGE_SECONDS.labels("engine").observe(time.perf_counter() - started)
            if prepared.issuing is not None:
                answer["certificates"] = _as_json(await prepared.issuing)
        finally:
            prepared.cancel()
    return answer


async def _chunks(prepared: Prepared, stream: ChatStream) -> AsyncGenerator[str]:
    started = time.perf_counter()
    unsent = prepared.issuing
    first = True
    try:
        async with measured(ROUTE), stream:
            async for chunk in stream:
                if first:
                    metrics.STAGE_SECONDS.labels("engine_first_token").observe(time.perf_counter() - started)
                    first = False
                if unsent is not None and (unsent.done() or _is_last(chunk)):
                    chunk["certificates"] = _as_json(await unsent)
                    unsent = None
                yield sse.event(chunk)
            metrics.STAGE_SECONDS.labels("engine").observe(time.perf_counter() - started)
            yield sse.DONE
    finally:
        prepared.cancel()


def _is_last(chunk: Json) -> bool:
    choices = chunk.get("choices")
    return not choices or any(choice.get("finish_reason") for choice in choices)


def _as_json(certificates: list[IssuedCertificate]) -> list[Json]:
    return [certificate.model_dump(mode="json") for certificate in certificates]
