"""`POST /v1/playground/attack`: an attack as it happens, as server-sent events.

`crafting` for every step, `crafted` with the pictures, `undefended` and `defended` with the answers that the
engine gives about the clean picture and about the attacked one. All is computed when it is asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from torch import Tensor

from smoothgate.engine import image_parts
from smoothgate.errors import EngineFailed
from smoothgate.gate.accounts import Account
from smoothgate.gate.chat_images import Slot
from smoothgate.gate.pipeline import Stages, cancel, decode_images, issue, smooth
from smoothgate.gate.runtime import Runtime
from smoothgate.http import sse
from smoothgate.http.request_body import read
from smoothgate.http.request_state import account_of, measured, request_id, runtime_of
from smoothgate.playground.data_uris import data_uri, png
from smoothgate.playground.laboratory_plugin import LaboratoryPlugin
from smoothgate_lab.laboratory.attack import LARGEST, QUESTION, AttackRequest, Step, rounded
from smoothgate_lab.laboratory.laboratory import Laboratory

ROUTE = "/v1/playground/attack"
# Pictures on the way are for the eye: every fourth is enough.
_SHOWN_EVERY = 4
_TINY = 1e-6

Json = dict[str, Any]


def plugin() -> LaboratoryPlugin:
    """A laboratory of its own, for the playground (entry point `smoothgate.playground`)."""
    return LaboratoryPlugin(
        laboratory_router(Laboratory()), QUESTION, {str(norm): eps for norm, eps in LARGEST.items()}
    )


def laboratory_router(laboratory: Laboratory) -> APIRouter:
    """The route, in front of a laboratory."""
    router = APIRouter(include_in_schema=False)

    @router.post(ROUTE)
    async def attack(request: Request) -> Response:
        """Attack a picture and show what both models answer."""
        runtime = runtime_of(request)
        asked, _ = await read(request, AttackRequest)
        laboratory.require_free()
        smoother = runtime.require_ready()
        asked.smoothing.plan(runtime.settings)
        account = account_of(request)
        runtime.gatekeeper.charge(account, asked.cost)
        (image,) = await decode_images(runtime, [Slot(0, 0, asked.image, "image")])
        canvas = await asyncio.to_thread(smoother.encoder.adapter.canvas, image)
        events = _events(laboratory, runtime, account, rounded(canvas.x), asked, request_id(request))
        return sse.response(events)

    return router


async def _events(
    laboratory: Laboratory,
    runtime: Runtime,
    account: Account | None,
    clean: Tensor,
    asked: AttackRequest,
    identifier: str,
) -> AsyncGenerator[str]:
    sigma = asked.smoothing.plan(runtime.settings).sigma
    async with measured(ROUTE):
        with laboratory.taken():
            attacked = clean
            steps = laboratory.attack(runtime.psm_folder(), clean, asked, sigma)
            async with aclosing(steps):
                async for step in steps:
                    if isinstance(step, Step):
                        yield sse.event(_progress(step, asked.steps))
                    else:
                        attacked = step
            yield sse.event(_pictures(clean, attacked))
            seen = [await laboratory.undefended(x) for x in (clean, attacked)]
        answers = [
            await _answer(runtime, x, each.tokens, identifier)
            for x, each in zip((clean, attacked), seen, strict=True)
        ]
        cosine = float(seen[0].features @ seen[1].features)
        yield sse.event(
            {"stage": "undefended", "clean": answers[0], "attacked": answers[1], "cosine": cosine}
        )
        yield sse.event(await _defended(runtime, account, clean, attacked, asked, identifier))
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


async def _defended(
    runtime: Runtime,
    account: Account | None,
    clean: Tensor,
    attacked: Tensor,
    asked: AttackRequest,
    identifier: str,
) -> Json:
    """Both pictures as any client's would be served, and what the clean one's certificate says at the
    distance of the attacked one.
    """
    distance = float((attacked - clean).norm())
    smoother = runtime.require_ready()
    radii = asked.smoothing.eps or list(runtime.settings.eps)
    at = {"eps": [*radii, distance]} if distance > _TINY else {}
    options = asked.smoothing.model_copy(update=at)
    slots = [Slot(0, i, png(x), "image") for i, x in enumerate((clean, attacked))]
    stages = Stages()
    smoothed = await smooth(runtime, account, slots, options, stages)
    try:
        directions = [await image.direction() for image in smoothed]
        answers = [
            await _answer(runtime, x, smoother.encoder.served_tokens(t), identifier)
            for x, t in zip((clean, attacked), directions, strict=True)
        ]
        certificates = await issue(runtime, smoothed, stages)
    finally:
        cancel(smoothed)
    bound = next((b.fcsb for b in certificates[0].bounds if b.eps == distance), None)
    return {
        "stage": "defended",
        "clean": answers[0],
        "attacked": answers[1],
        "cosine": float(directions[0] @ directions[1]),
        "bound": bound,
        "certificates": [each.model_dump(mode="json") for each in certificates],
    }


async def _answer(runtime: Runtime, x: Tensor, tokens: Tensor, identifier: str) -> str:
    """What the engine says to the question about visual tokens (T, D) of a canvas (3, H, W)."""
    adapter = runtime.require_ready().encoder.adapter
    prompt = await asyncio.to_thread(adapter.prompt, *x.shape[1:])
    parts = image_parts(tokens, prompt, hidden_size=adapter.hidden_size, dtype=runtime.dtype)
    body: Json = {
        "model": runtime.model_name,
        "messages": [{"role": "user", "content": [*parts, {"type": "text", "text": QUESTION}]}],
        "max_tokens": 40,
        "temperature": 0,
    }
    answer = await runtime.engine.client.chat(body, identifier)
    try:
        return str(answer["choices"][0]["message"]["content"] or "")
    except (KeyError, IndexError, TypeError) as error:
        raise EngineFailed("The engine's answer holds no message.") from error
