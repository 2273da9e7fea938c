"""The routes of the laboratory: an attack while it runs, and the answers of the undefended model.

`POST /v1/playground/attack` answers with server-sent events: `crafting` for every step, and `crafted` with
the pictures. `POST /v1/playground/undefended` asks the model about a picture without Smoothgate. The page
asks the API about the same pictures, as any client does. All of it is computed on request.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from smoothgate.gate.chat_images import ImageSlot
from smoothgate.gate.request_timing import deadline, measured
from smoothgate.gate.service import Service
from smoothgate.gate.visual_chat import visual_parts
from smoothgate.http import sse
from smoothgate.http.request_body import read
from smoothgate.http.request_state import account_of, request_id, while_connected
from smoothgate.off_loop import off_loop
from smoothgate.playground.data_uris import data_uri
from smoothgate.playground.laboratory_plugin import LaboratoryPlugin
from smoothgate.schemas import Message, SmoothingOptions
from smoothgate_lab.laboratory.attack import LARGEST, QUESTION, AttackRequest, Step, rounded
from smoothgate_lab.laboratory.laboratory import Laboratory
from smoothgate_lab.laboratory.presets import PRESETS

ROUTE = "/v1/playground/attack"
UNDEFENDED_ROUTE = "/v1/playground/undefended"
# Intermediate pictures are only for viewing, so every fourth is enough.
_SHOWN_EVERY = 4
_LONGEST_ANSWER = 120
_ANSWER_SECONDS = 60.0

Json = dict[str, Any]


class UndefendedRequest(BaseModel):
    """A question about one picture, for the model without Smoothgate."""

    model_config = ConfigDict(extra="forbid")

    image: str = Field(description="The picture as a data URI.")
    message: Message = Field(max_length=1000, description="The question.")


def plugin() -> LaboratoryPlugin:
    """A new laboratory for the playground (entry point `smoothgate.playground`)."""
    return LaboratoryPlugin(
        partial(laboratory_router, Laboratory()),
        QUESTION,
        {str(norm): eps for norm, eps in LARGEST.items()},
        [asdict(preset) for preset in PRESETS],
    )


def laboratory_router(laboratory: Laboratory, service: Service) -> APIRouter:
    """The routes to a laboratory and to the service whose model it attacks."""
    router = APIRouter(include_in_schema=False)

    @router.post(ROUTE)
    async def attack(request: Request) -> Response:
        """Attack a picture."""
        wanted, _ = await read(request, AttackRequest)
        laboratory.require_free()
        smoother = service.readiness.require_smoother()
        sigma = service.policy.plan(SmoothingOptions(sigma=wanted.sigma)).sigma
        service.gatekeeper.charge(account_of(request), wanted.cost)
        (image,) = await service.decoder.decode([ImageSlot(0, 0, wanted.image, "image")])
        canvas = await off_loop(smoother.encoder.adapter.canvas, image)
        events = _attacked(laboratory, service, wanted, rounded(canvas.x), sigma)
        return sse.EventStream(events, events)

    @router.post(UNDEFENDED_ROUTE)
    async def undefended(request: Request) -> Json:
        """The answer of the model without Smoothgate."""
        wanted, _ = await read(request, UndefendedRequest)
        smoother = service.readiness.require_all()
        service.gatekeeper.charge(account_of(request), 1)

        async def answer() -> str:
            with measured(UNDEFENDED_ROUTE):
                async with deadline(_ANSWER_SECONDS):
                    (image,) = await service.decoder.decode([ImageSlot(0, 0, wanted.image, "image")])
                    tokens = await off_loop(smoother.encoder.raw_tokens, image)
                    parts = await visual_parts(smoother.encoder.adapter, tokens, image.height, image.width)
                    return await service.questions.ask(
                        wanted.message, parts, max_tokens=_LONGEST_ANSWER, request_id=request_id(request)
                    )

        return {"answer": await while_connected(request, answer())}

    return router


async def _attacked(
    laboratory: Laboratory, service: Service, wanted: AttackRequest, clean: Tensor, sigma: float
) -> AsyncGenerator[str]:
    """The events of an attack on a picture (3, H, W)."""
    with measured(ROUTE), laboratory.taken():
        async with aclosing(laboratory.attack(service.model.psm, clean, wanted, sigma)) as steps:
            async for step in steps:
                told = _progress(step, wanted.steps) if isinstance(step, Step) else _pictures(clean, step)
                yield sse.event(told)
        yield sse.DONE


def _progress(step: Step, steps: int) -> Json:
    shown = data_uri(step.picture) if step.number % _SHOWN_EVERY == 0 else None
    return {
        "stage": "crafting",
        "step": step.number + 1,
        "steps": steps,
        "loss": step.loss,
        "picture": shown,
    }


def _pictures(clean: Tensor, attacked: Tensor) -> Json:
    delta = attacked - clean
    largest = float(delta.abs().max())
    times = 0.5 / max(largest, 1 / 255)
    return {
        "stage": "crafted",
        "clean": data_uri(clean),
        "attacked": data_uri(attacked),
        "difference": data_uri(0.5 + times * delta),
        "times": times,
        "linf": largest,
        "l2": float(delta.norm()),
    }
