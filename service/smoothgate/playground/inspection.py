"""`POST /v1/playground/look`: what is behind a certificate, its scores and what the encoder was shown.

It takes what `/v1/certify` takes and draws as much; a picture just asked about on the same terms has its
result from the cache, so that these are the very samples of its certificate. The seed says whether they are.
"""

from __future__ import annotations

import asyncio
from typing import Any

import torch
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from smoothgate.errors import MalformedRequest
from smoothgate.gate.chat_images import Slot
from smoothgate.gate.pipeline import Stages, cancel, deadline, smooth
from smoothgate.gate.schemas import CertifyRequest, SmoothingOptions
from smoothgate.http.request_body import read
from smoothgate.http.request_state import account_of, measured, runtime_of, while_connected
from smoothgate.playground.data_uris import data_uri
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.sampling.smoother import Smoothed

router = APIRouter(include_in_schema=False)
ROUTE = "/v1/playground/look"


@router.post(ROUTE)
async def look(request: Request) -> Response:
    """Scores, and the canvas plain, with noise, and purified, of each picture."""
    runtime = runtime_of(request)
    asked, files = await read(request, CertifyRequest)
    sources: list[str | bytes] = [*asked.images, *files]
    slots = [Slot(0, i, source, f"images.{i}") for i, source in enumerate(sources)]
    options = asked.smoothing or SmoothingOptions()
    if not slots or options.mode == "off":
        raise MalformedRequest("There is no picture to smooth.", param="images")

    async def work() -> list[dict[str, Any]]:
        async with measured(ROUTE), deadline(runtime.settings.request_timeout_seconds):
            encoder = runtime.require_ready("encoder", "sampler").encoder
            smoothed = await smooth(runtime, account_of(request), slots, options, Stages())
            try:
                for image in smoothed:
                    await image.certification_scores()
                return [await asyncio.to_thread(_seen, encoder, image) for image in smoothed]
            finally:
                cancel(smoothed)

    return JSONResponse({"pictures": await while_connected(request, work())})


@torch.inference_mode()
def _seen(encoder: UnitEncoder, image: Smoothed) -> dict[str, Any]:
    noisy = image.copy(0)
    device = encoder.adapter.device
    sigma = torch.tensor([image.plan.sigma], device=device)
    purified = encoder.purified(noisy[None].to(device), sigma)[0].float().cpu()
    _, certification = image.scores()
    return {
        "seed": f"{image.seed:032x}",
        "scores": [round(score, 5) for score in certification],
        "canvas": data_uri(image.canvas),
        "noisy": data_uri(noisy),
        "purified": None if encoder.psm.is_identity else data_uri(purified),
    }
