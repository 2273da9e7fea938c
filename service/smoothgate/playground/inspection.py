"""`POST /v1/playground/look`: the scores behind a certificate, and pictures of what the encoder sees.

It takes the body of `/v1/certify` and draws as many samples. Where the result of the same picture on the same
terms is in the cache, these are the samples of its certificate. The seed tells whether they are.
"""

from __future__ import annotations

from typing import Any

import torch
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from smoothgate.gate.answering import Answering
from smoothgate.gate.readiness import Readiness
from smoothgate.http.certify_route import image_request
from smoothgate.http.request_state import while_connected
from smoothgate.off_loop import off_loop
from smoothgate.playground.data_uris import data_uri
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.sampling.smoother import Smoothed

ROUTE = "/v1/playground/look"


def inspection_router(answering: Answering, readiness: Readiness) -> APIRouter:
    """The route."""
    router = APIRouter(include_in_schema=False)

    @router.post(ROUTE)
    async def look(request: Request) -> Response:
        """The scores of each picture, and its canvas: plain, with noise, and purified."""
        images = await image_request(request, ROUTE)

        async def pictures() -> list[dict[str, Any]]:
            async with answering.sampled(images) as smoothed:
                encoder = readiness.require_smoother().encoder
                for image in smoothed:
                    await image.certification_scores()
                return [await off_loop(_seen, encoder, image) for image in smoothed]

        return await off_loop(JSONResponse, {"pictures": await while_connected(request, pictures())})

    return router


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
