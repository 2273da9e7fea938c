"""`POST /v1/chat/completions`, `GET /v1/models` and `GET /v1/models/{name}`: OpenAI's, with certificates."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from smoothgate.errors import UnknownModel
from smoothgate.gate.accounts import Account
from smoothgate.gate.answering import AnswerCertified, Answering, Certificates, Event, Piece, Turn
from smoothgate.gate.description import Description
from smoothgate.http import openapi_examples, sse
from smoothgate.http.chat_fields import certified, is_streamed, smoothing_of
from smoothgate.http.outcome_headers import outcome_headers
from smoothgate.http.request_body import read_object
from smoothgate.http.request_state import accepted, account_of, request_id, while_connected
from smoothgate.off_loop import off_loop
from smoothgate.schemas import CompletionAnswer, ModelCard, ModelList

ROUTE = "/v1/chat/completions"

Json = dict[str, Any]


def openai_router(answering: Answering, model_name: str, created: int, description: Description) -> APIRouter:
    """The routes.

    Args:
        answering: answers.
        model_name: of the one model.
        created: seconds since the epoch, for the card of the model.
        description: digests, terms and limits for the same.
    """
    router = APIRouter(tags=["OpenAI"])
    # `root` is vLLM's, whose `bench serve` reads it.
    card = {
        "id": model_name,
        "object": "model",
        "created": created,
        "owned_by": "smoothgate",
        "root": model_name,
        # Anthropic's form of the same
        "type": "model",
        "display_name": model_name,
        "created_at": datetime.fromtimestamp(created, UTC).isoformat(),
    }

    @router.get("/v1/models", response_model=ModelList, responses=openapi_examples.DOOR)
    async def models() -> Json:
        """The one model served, in OpenAI's form and Anthropic's."""
        return {
            "object": "list",
            "data": [card],
            "has_more": False,
            "first_id": model_name,
            "last_id": model_name,
        }

    @router.get(
        "/v1/models/{name:path}",
        response_model=ModelCard,
        responses=openapi_examples.DOOR | openapi_examples.NOT_FOUND,
    )
    async def model(name: str) -> Json:
        """The same model by its name, with its digests, the default terms of a request, and its limits."""
        if name != model_name:
            raise UnknownModel(f"The model served here is {model_name}.", param="model")
        return card | {"smoothgate": await off_loop(description.details)}

    @router.post(
        ROUTE,
        response_model=CompletionAnswer,
        openapi_extra=openapi_examples.completions(),
        responses=openapi_examples.STREAM | openapi_examples.ERRORS | openapi_examples.NOT_FOUND,
    )
    async def chat_completions(request: Request) -> Response:
        """OpenAI's chat completions, streaming included; every other parameter is vLLM's.

        `smoothing` comes in as an extra field. `certificates` goes out as one: in the body, or in a stream in
        the chunk that ends the answer, which they name.
        """
        body = await read_object(request)
        streamed = is_streamed(body)
        turn = turn_of(body, account_of(request), request_id(request))
        if streamed:
            events = answering.stream(turn)
            first = await accepted(request, events)
            return sse.EventStream(_chunks(events, waits=first.certified), events)
        answer = await while_connected(request, answering.answer(turn))
        whole = answer.completion | certified(answer)
        return await off_loop(JSONResponse, whole, headers=outcome_headers(answer))

    return router


def turn_of(body: Json, account: Account | None, identifier: str) -> Turn:
    """What a body asks for; MalformedRequest where `smoothing` is not what it should be."""
    parameters = {key: value for key, value in body.items() if key not in ("messages", "model", "smoothing")}
    return Turn(
        route=ROUTE,
        account=account,
        request_id=identifier,
        messages=body.get("messages"),
        model=body.get("model"),
        smoothing=smoothing_of(body),
        parameters=parameters,
    )


async def _chunks(events: AsyncGenerator[Event], *, waits: bool) -> AsyncGenerator[str]:
    """vLLM's chunks. The certificates go out in the chunk that ends the answer, which waits for them. A chunk
    that ends one of several choices does not wait once another choice goes on.
    """
    waiting: list[Json] = []
    async for event in events:
        match event:
            case Piece(chunk, ends_answer=ends):
                if not (waits and ends):
                    for earlier in waiting:
                        yield sse.event(earlier)
                    waiting.clear()
                    yield sse.event(chunk)
                else:
                    waiting.append(chunk)
            case Certificates() | AnswerCertified():
                certificates = certified(event)
                for chunk in waiting:
                    yield sse.event(chunk | certificates)
                    certificates = {}
    yield sse.DONE
