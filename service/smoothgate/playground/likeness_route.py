"""`POST /v1/playground/likeness`: whether a picture is like those that the demo model was trained on."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from smoothgate.demo.likeness import likeness
from smoothgate.gate.chat_images import ImageSlot
from smoothgate.gate.service import Service
from smoothgate.http.request_body import read
from smoothgate.http.request_state import account_of
from smoothgate.off_loop import off_loop

ROUTE = "/v1/playground/likeness"
# Forwards through the encoder, as an account pays for them.
_COST = 17


class LikenessRequest(BaseModel):
    """A picture."""

    model_config = ConfigDict(extra="forbid")

    image: str = Field(description="The picture as a data URI.")


def likeness_router(service: Service) -> APIRouter:
    """The route of a service of the demo model."""
    router = APIRouter(include_in_schema=False)

    @router.post(ROUTE)
    async def known(request: Request) -> dict[str, bool]:
        """Whether its figures are in the ranges of held-out pictures."""
        wanted, _ = await read(request, LikenessRequest)
        encoder = service.readiness.require_smoother().encoder
        service.gatekeeper.charge(account_of(request), _COST)
        (image,) = await service.decoder.decode([ImageSlot(0, 0, wanted.image, "image")])
        canvas = await off_loop(encoder.adapter.canvas, image)
        return {"known": (await off_loop(likeness, encoder, canvas.x)).is_known}

    return router
