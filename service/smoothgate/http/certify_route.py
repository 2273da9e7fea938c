"""`POST /v1/certify`: pictures in, certificates out, no language model."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from smoothgate.gate.answering import Answering, ImageRequest
from smoothgate.http import openapi_examples
from smoothgate.http.request_body import read
from smoothgate.http.request_state import account_of, request_id, while_connected
from smoothgate.off_loop import off_loop
from smoothgate.schemas import CertifyAnswer, CertifyRequest, SmoothingOptions

ROUTE = "/v1/certify"


def certify_router(answering: Answering, model_name: str) -> APIRouter:
    """The route."""
    router = APIRouter(tags=["Smoothgate"])

    @router.post(
        ROUTE,
        response_model=CertifyAnswer,
        openapi_extra=openapi_examples.certify(),
        responses=openapi_examples.ERRORS,
    )
    async def certify(request: Request) -> Response:
        """Certificates of pictures, without asking the language model anything."""
        images = await image_request(request, ROUTE)
        issued = await while_connected(request, answering.certify(images))
        return await off_loop(_response, CertifyAnswer(model=model_name, certificates=issued))

    return router


def _response(answer: CertifyAnswer) -> JSONResponse:
    return JSONResponse(answer.model_dump(mode="json"))


async def image_request(request: Request, route: str) -> ImageRequest:
    """The pictures of a body of this form, for the route that takes it.

    Raises:
        MalformedRequest: naming the field at fault.
    """
    body, files = await read(request, CertifyRequest)
    return ImageRequest(
        route=route,
        request_id=request_id(request),
        account=account_of(request),
        images=[*body.images, *files],
        smoothing=body.smoothing or SmoothingOptions(),
    )
