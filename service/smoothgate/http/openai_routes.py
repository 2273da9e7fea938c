"""`POST /v1/chat/completions`, `GET /v1/models` and `GET /v1/models/{name}`: OpenAI's, with certificates."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import TypeAdapter, ValidationError

from smoothgate.errors import MalformedRequest, UnknownModel
from smoothgate.gate.accounts import Account
from smoothgate.gate.answering import AnswerCertified, Answering, Certificates, Event, Piece, Turn
from smoothgate.http import error_responses, openapi_examples, sse
from smoothgate.http.outcome_headers import outcome_headers
from smoothgate.http.request_body import read_json
from smoothgate.http.request_state import accepted, account_of, request_id, while_connected
from smoothgate.off_loop import off_loop
from smoothgate.schemas import CompletionAnswer, ModelCard, ModelList, SmoothingOptions, as_json

ROUTE = "/v1/chat/completions"

Json = dict[str, Any]

_STREAM = TypeAdapter[bool | None](bool | None)


def openai_router(answering: Answering, model_name: str, created: int) -> APIRouter:
    """The routes.

    Args:
        answering: answers.
        model_name: of the one model.
        created: seconds since the epoch, for the card of the model.
    """
    router = APIRouter(tags=["OpenAI"])
    # `root` is vLLM's, whose `bench serve` reads it.
    card = {
        "id": model_name,
        "object": "model",
        "created": created,
        "owned_by": "smoothgate",
        "root": model_name,
    }

    @router.get("/v1/models", response_model=ModelList, responses=openapi_examples.DOOR)
    async def models() -> Json:
        """The one model served, in OpenAI's form."""
        return {"object": "list", "data": [card]}

    @router.get(
        "/v1/models/{name:path}",
        response_model=ModelCard,
        responses=openapi_examples.DOOR | openapi_examples.NOT_FOUND,
    )
    async def model(name: str) -> Json:
        """The same model by its name."""
        if name != model_name:
            raise UnknownModel(f"The model served here is {model_name}.", param="model")
        return card

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
        body = await read_json(request)
        if not isinstance(body, dict):
            raise MalformedRequest("The body must be a JSON object.")
        streamed = _is_streamed(body)
        turn = turn_of(body, account_of(request), request_id(request))
        if streamed:
            events = answering.stream(turn)
            first = await accepted(request, events)
            return sse.EventStream(_chunks(events, certified=first.certified), events)
        answer = await while_connected(request, answering.answer(turn))
        certified = {} if answer.certificates is None else _field(answer.certificates)
        if answer.answer_certificate is not None:
            certified = {"answer_certificate": answer.answer_certificate.model_dump(mode="json")}
        return await off_loop(JSONResponse, answer.completion | certified, headers=outcome_headers(answer))

    return router


def _is_streamed(body: Json) -> bool:
    """`stream` as vLLM reads it: "false" is false, and 2 is refused."""
    try:
        return bool(_STREAM.validate_python(body.get("stream")))
    except ValidationError as error:
        raise error_responses.of_validation(error.errors(), prefix="stream") from error


def turn_of(body: Json, account: Account | None, identifier: str) -> Turn:
    """What a body asks for; MalformedRequest where `smoothing` is not what it should be."""
    parameters = {key: value for key, value in body.items() if key not in ("messages", "model", "smoothing")}
    return Turn(
        route=ROUTE,
        account=account,
        request_id=identifier,
        messages=body.get("messages"),
        model=body.get("model"),
        smoothing=_smoothing(body.get("smoothing")),
        parameters=parameters,
    )


def _smoothing(value: Any) -> SmoothingOptions:
    try:
        return SmoothingOptions.model_validate({} if value is None else value)
    except ValidationError as error:
        raise error_responses.of_validation(error.errors(), SmoothingOptions, prefix="smoothing") from error


async def _chunks(events: AsyncGenerator[Event], *, certified: bool) -> AsyncGenerator[str]:
    """vLLM's chunks. The certificates go out in the chunk that ends the answer, which waits for them. A chunk
    that ends one of several choices does not wait once another choice goes on.
    """
    waiting: list[Json] = []
    async for event in events:
        match event:
            case Piece(chunk, ends_answer=ends):
                if not (certified and ends):
                    for earlier in waiting:
                        yield sse.event(earlier)
                    waiting.clear()
                    yield sse.event(chunk)
                else:
                    waiting.append(chunk)
            case Certificates() | AnswerCertified():
                certificates = _field_of(event)
                for chunk in waiting:
                    yield sse.event(chunk | certificates)
                    certificates = {}
    yield sse.DONE


def _field_of(event: Certificates | AnswerCertified) -> Json:
    if isinstance(event, AnswerCertified):
        return {"answer_certificate": event.issued.model_dump(mode="json")}
    return _field(event.issued)


def _field(certificates: list[Any]) -> Json:
    return {"certificates": as_json(certificates)}
