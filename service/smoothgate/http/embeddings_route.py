"""`POST /v1/embeddings`: smoothed features of pictures, which come as vLLM takes them, with certificates."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from smoothgate.errors import MalformedRequest, Unacceptable, UnknownModel
from smoothgate.gate.answering import Answering, Features, ImageRequest
from smoothgate.gate.chat_images import ImageSlot, find_images
from smoothgate.http import openapi_examples
from smoothgate.http.chat_fields import smoothing_of
from smoothgate.http.request_body import read_object
from smoothgate.http.request_state import account_of, request_id, while_connected
from smoothgate.http.translation import an_object, named, refuse, unsupported
from smoothgate.off_loop import off_loop
from smoothgate.schemas import EmbeddingsAnswer, as_json

ROUTE = "/v1/embeddings"

Json = dict[str, Any]

_FIELDS = {"encoding_format", "messages", "model", "smoothing", "user"}
_NOT_SERVED = {
    "dimensions": "Features are not shortened: the certificate is about all of them.",
    "input": "Text is not embedded: send messages that hold pictures.",
}


def embeddings_router(answering: Answering, model_name: str) -> APIRouter:
    """The route."""
    router = APIRouter(tags=["OpenAI"])

    @router.post(
        ROUTE,
        response_model=EmbeddingsAnswer,
        openapi_extra=openapi_examples.embeddings(),
        responses=openapi_examples.ERRORS | openapi_examples.NOT_FOUND,
    )
    async def embeddings(request: Request) -> Response:
        """The smoothed features of pictures: one unit vector for each, in the order of the messages.

        `smoothing` comes in as an extra field, `certificates` goes out as one, in the order of the vectors.
        """
        body = await read_object(request)
        refuse(body, _NOT_SERVED)
        an_object(body, "", _FIELDS)
        if body.get("model") not in (None, "", model_name):
            raise UnknownModel(f"The model served here is {model_name}.", param="model")
        encoding = body.get("encoding_format") or "float"
        if encoding not in ("float", "base64"):
            raise MalformedRequest("encoding_format must be float or base64.", param="encoding_format")
        slots = await off_loop(_pictures, body.get("messages"))
        images = ImageRequest(
            route=ROUTE,
            request_id=request_id(request),
            account=account_of(request),
            images=[slot.source for slot in slots],
            smoothing=smoothing_of(body),
        )
        with named({f"images.{number}": slot.param for number, slot in enumerate(slots)}):
            found = await while_connected(request, answering.features(images))
        return await off_loop(_response, found, model_name, encoding)

    return router


def _pictures(messages: Any) -> list[ImageSlot]:
    """The pictures of messages that hold nothing else."""
    slots = find_images(messages)
    places = {(slot.message, slot.part) for slot in slots}
    for at, message in enumerate(messages):
        content = message.get("content")
        if isinstance(content, str):
            raise unsupported("Text is not embedded: send pictures alone.", f"messages.{at}.content")
        for number in range(len(content or ())):
            if (at, number) not in places:
                raise unsupported(
                    "Text is not embedded: send pictures alone.", f"messages.{at}.content.{number}"
                )
    if not slots:
        raise Unacceptable("There is no picture to embed.", param="messages")
    return slots


def _response(found: Sequence[Features], model_name: str, encoding: str) -> JSONResponse:
    tokens = sum(each.tokens for each in found)
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(each, encoding)}
        for index, each in enumerate(found)
    ]
    return JSONResponse(
        {
            "object": "list",
            "data": data,
            "model": model_name,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            "certificates": as_json([each.certificate for each in found]),
        }
    )


def _encoded(features: Features, encoding: str) -> list[float] | str:
    if encoding == "base64":
        return base64.b64encode(features.vector.astype("<f4").tobytes()).decode()
    values: list[float] = features.vector.tolist()
    return values
