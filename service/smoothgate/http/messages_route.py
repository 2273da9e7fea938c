"""`POST /v1/messages`: Anthropic's Messages API over the same answering flow, with certificates."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from smoothgate.gate.answering import Answering
from smoothgate.http import error_responses, openapi_examples, sse
from smoothgate.http.answer_blocks import whole_of
from smoothgate.http.chat_fields import is_streamed
from smoothgate.http.messages_answer import MessageForm
from smoothgate.http.messages_request import turn_of
from smoothgate.http.outcome_headers import outcome_headers
from smoothgate.http.request_body import read_object
from smoothgate.http.request_state import accepted, account_of, request_id, while_connected
from smoothgate.off_loop import off_loop
from smoothgate.schemas import MessagesAnswer


def messages_router(answering: Answering, model_name: str) -> APIRouter:
    """The route."""
    router = APIRouter(tags=["Anthropic"])

    @router.post(
        error_responses.MESSAGES,
        response_model=MessagesAnswer,
        openapi_extra=openapi_examples.messages(),
        responses=openapi_examples.STREAM | openapi_examples.ERRORS | openapi_examples.NOT_FOUND,
    )
    async def messages(request: Request) -> Response:
        """Anthropic's Messages for text, pictures and tools of the client, streaming included.

        `smoothing` comes in as an extra field. `certificates` goes out as one of the message, in a stream of
        the event `message_delta`.
        """
        body = await read_object(request)
        identifier = request_id(request)
        translated = await off_loop(turn_of, body, account_of(request), identifier)
        form = MessageForm(identifier, model_name)
        with translated.named():
            if is_streamed(body):
                events = answering.stream(translated.turn)
                await accepted(request, events)
                return sse.EventStream(form.events(events, translated), events, error_responses.MESSAGES)
            answer = await while_connected(request, answering.answer(translated.turn))
        return await off_loop(
            lambda: JSONResponse(form.whole(whole_of(answer)), headers=outcome_headers(answer))
        )

    return router
