"""`POST /v1/certify`: pictures in, certificates out, no language model."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from smoothgate.errors import MalformedRequest
from smoothgate.gate.chat_images import Slot
from smoothgate.gate.pipeline import Stages, cancel, deadline, issue, smooth
from smoothgate.gate.schemas import CertifyAnswer, CertifyRequest, SmoothingOptions
from smoothgate.http import openapi_examples
from smoothgate.http.request_body import read
from smoothgate.http.request_state import account_of, measured, runtime_of, while_connected

router = APIRouter(tags=["Smoothgate"])


@router.post(
    "/v1/certify",
    response_model=CertifyAnswer,
    openapi_extra=openapi_examples.certify(),
    responses=openapi_examples.ERRORS,
)
async def certify(request: Request) -> Response:
    """Certificates of pictures, without asking the language model anything."""
    runtime = runtime_of(request)
    asked, files = await read(request, CertifyRequest)

    async def work() -> CertifyAnswer:
        async with measured("/v1/certify"), deadline(runtime.settings.request_timeout_seconds):
            sources: list[str | bytes] = [*asked.images, *files]
            slots = [Slot(0, i, source, f"images.{i}") for i, source in enumerate(sources)]
            if not slots:
                raise MalformedRequest("There is no image to certify.", param="images")
            options = asked.smoothing or SmoothingOptions()
            if options.mode == "off":
                raise MalformedRequest(
                    "There is nothing to certify with smoothing off.", param="smoothing.mode"
                )
            stages = Stages()
            smoothed = await smooth(runtime, account_of(request), slots, options, stages)
            try:
                made = await issue(runtime, smoothed, stages)
            finally:
                cancel(smoothed)
            return CertifyAnswer(model=runtime.model_name, certificates=made)

    answer = await while_connected(request, work())
    return JSONResponse(answer.model_dump(mode="json"))
