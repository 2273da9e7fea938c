"""`POST /v1/chat`: the plain REST face, as JSON or as a form with files."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from smoothgate.gate.accounts import Account
from smoothgate.gate.answering import (
    Answer,
    AnswerCertified,
    Answering,
    Certificates,
    Event,
    Finished,
    Piece,
    Turn,
    Voted,
)
from smoothgate.gate.request_timing import Stages
from smoothgate.http import openapi_examples, sse
from smoothgate.http.outcome_headers import outcome_headers
from smoothgate.http.request_body import read
from smoothgate.http.request_state import accepted, account_of, request_id, while_connected
from smoothgate.off_loop import off_loop
from smoothgate.schemas import ChatAnswer, ChatRequest, SmoothingOptions, Timings, as_json

ROUTE = "/v1/chat"

Json = dict[str, Any]


def chat_router(answering: Answering, model_name: str) -> APIRouter:
    """The route."""
    router = APIRouter(tags=["Smoothgate"])

    @router.post(
        ROUTE,
        response_model=ChatAnswer,
        openapi_extra=openapi_examples.chat(),
        responses=openapi_examples.STREAM | openapi_examples.ERRORS,
    )
    async def chat(request: Request) -> Response:
        """Ask about pictures; the answer comes with one certificate per picture.

        As JSON, or as `multipart/form-data` with `message` and any number of files `image`.
        """
        body, files = await read(request, ChatRequest)
        identifier = request_id(request)
        turn = turn_of(body, files, account_of(request), identifier)
        if body.stream:
            events = answering.stream(turn)
            await accepted(request, events)
            return sse.EventStream(_frames(events, identifier, model_name), events)
        answer = await while_connected(request, answering.answer(turn))
        return await off_loop(_response, answer, identifier, model_name)

    return router


def _response(answer: Answer, identifier: str, model_name: str) -> JSONResponse:
    whole = ChatAnswer(
        id=identifier,
        model=model_name,
        answer=answer.text,
        certificates=answer.certificates or [],
        answer_certificate=answer.answer_certificate,
        usage=answer.usage,
        timings=_timings(answer.stages),
    )
    return JSONResponse(whole.model_dump(mode="json"), headers=outcome_headers(answer))


def turn_of(
    body: ChatRequest, files: Sequence[str | bytes], account: Account | None, identifier: str
) -> Turn:
    """What a body asks for. Files of a form come after the pictures of the body."""
    parameters: Json = body.model_dump(include={"max_tokens", "temperature"}, exclude_none=True)
    if body.stream:
        parameters["stream_options"] = {"include_usage": True}
    question = {"role": "user", "content": [{"type": "text", "text": body.message}]}
    return Turn(
        route=ROUTE,
        account=account,
        request_id=identifier,
        messages=[*body.history, question],
        messages_field="history",
        images=[*body.images, *files],
        smoothing=body.smoothing or SmoothingOptions(),
        parameters=parameters,
    )


def _timings(stages: Stages) -> Timings:
    """The times of a request until now."""
    return Timings(
        decode=round(stages.decode, 4),
        select=round(stages.select, 4),
        certify=round(stages.certify, 4),
        engine=round(stages.engine, 4),
        total=round(stages.now(), 4),
    )


async def _frames(events: AsyncGenerator[Event], identifier: str, model_name: str) -> AsyncGenerator[str]:
    """`{"id", "votes"}` while an answer that is certified is voted on, `{"id", "model", "delta"}` for each
    piece of the answer, `{"id", "certificates"}` or `{"id", "answer_certificate"}` once, and last `{"id",
    "usage", "timings"}`.
    """
    async for event in events:
        match event:
            case Piece(text=text) if text:
                yield sse.event({"id": identifier, "model": model_name, "delta": text})
            case Certificates(issued):
                yield sse.event({"id": identifier, "certificates": as_json(issued)})
            case Voted(progress):
                yield sse.event({"id": identifier, "votes": asdict(progress)})
            case AnswerCertified(issued):
                certificate = issued.model_dump(mode="json")
                yield sse.event({"id": identifier, "answer_certificate": certificate})
            case Finished(usage, stages):
                timings = _timings(stages).model_dump()
                yield sse.event({"id": identifier, "usage": usage, "timings": timings})
    yield sse.DONE
