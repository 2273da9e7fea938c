"""`POST /v1/playground/attack`: an attack while it runs, as server-sent events.

The events are `crafting` for every step, `crafted` with the pictures, and `undefended` and `defended`
with the engine's answers about the clean and the attacked picture. All of them are computed on request.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from torch import Tensor

from smoothgate.certify.certificate import Binding
from smoothgate.gate.accounts import Account
from smoothgate.gate.chat_images import ImageSlot
from smoothgate.gate.issuing import certificates_of
from smoothgate.gate.request_timing import Stages, measured
from smoothgate.gate.service import Service
from smoothgate.gate.visual_chat import visual_parts
from smoothgate.http import sse
from smoothgate.http.request_body import read
from smoothgate.http.request_state import account_of, request_id
from smoothgate.off_loop import off_loop
from smoothgate.playground.data_uris import data_uri, png
from smoothgate.playground.laboratory_plugin import LaboratoryPlugin
from smoothgate.sampling.sampling_plan import Plan
from smoothgate.sampling.smoother import Smoother
from smoothgate.schemas import as_json
from smoothgate_lab.laboratory.attack import LARGEST, QUESTION, AttackRequest, Step, rounded
from smoothgate_lab.laboratory.laboratory import Laboratory

ROUTE = "/v1/playground/attack"
# Intermediate pictures are only for viewing, so every fourth is enough.
_SHOWN_EVERY = 4
_TINY = 1e-6
_LONGEST_ANSWER = 40

Json = dict[str, Any]


def plugin() -> LaboratoryPlugin:
    """A new laboratory for the playground (entry point `smoothgate.playground`)."""
    return LaboratoryPlugin(
        partial(laboratory_router, Laboratory()), QUESTION, {str(norm): eps for norm, eps in LARGEST.items()}
    )


def laboratory_router(laboratory: Laboratory, service: Service) -> APIRouter:
    """The route to a laboratory and to the service whose model it attacks."""
    router = APIRouter(include_in_schema=False)

    @router.post(ROUTE)
    async def attack(request: Request) -> Response:
        """Attack a picture and show what both models answer."""
        wanted, _ = await read(request, AttackRequest)
        laboratory.require_free()
        smoother = service.readiness.require_all()
        plan = service.policy.plan(wanted.smoothing)
        account = account_of(request)
        service.gatekeeper.charge(account, wanted.cost)
        (image,) = await service.decoder.decode([ImageSlot(0, 0, wanted.image, "image")])
        canvas = await off_loop(smoother.encoder.adapter.canvas, image)
        demonstration = Demonstration(
            laboratory, service, smoother, wanted, plan, account, request_id(request)
        )
        events = demonstration.events(rounded(canvas.x))
        return sse.EventStream(events, events)

    return router


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One attack and the answers about its pictures.

    Attributes:
        laboratory: crafts the attack.
        service: answers about both pictures.
        smoother: the service's.
        wanted: the attack.
        plan: the sampling plan of the defence.
        account: the client's account.
        request_id: sent to vLLM.
    """

    laboratory: Laboratory
    service: Service
    smoother: Smoother
    wanted: AttackRequest
    plan: Plan
    account: Account | None
    request_id: str

    async def events(self, clean: Tensor) -> AsyncGenerator[str]:
        """The events of the stages, for a clean picture (3, H, W)."""
        with measured(ROUTE):
            with self.laboratory.taken():
                attacked = clean
                steps = self.laboratory.attack(self.service.model.psm, clean, self.wanted, self.plan.sigma)
                async with aclosing(steps):
                    async for step in steps:
                        if isinstance(step, Step):
                            yield sse.event(_progress(step, self.wanted.steps))
                        else:
                            attacked = step
                yield sse.event(_pictures(clean, attacked))
                seen = [await self.laboratory.undefended(x) for x in (clean, attacked)]
            answers = [
                await self._answer(x, view.tokens) for x, view in zip((clean, attacked), seen, strict=True)
            ]
            cosine = float(seen[0].features @ seen[1].features)
            yield sse.event(
                {"stage": "undefended", "clean": answers[0], "attacked": answers[1], "cosine": cosine}
            )
            yield sse.event(await self._defended(clean, attacked))
            yield sse.DONE

    async def _defended(self, clean: Tensor, attacked: Tensor) -> Json:
        """The event of the defended model.

        Both pictures are served like any client's. The bound is that of the clean picture's certificate
        at the distance of the attacked picture.
        """
        distance = float((attacked - clean).norm())
        eps = {"eps": [*self.plan.eps, distance]} if distance > _TINY else {}
        options = self.wanted.smoothing.model_copy(update=eps)
        slots = [ImageSlot(0, i, png(x), "image") for i, x in enumerate((clean, attacked))]
        async with self.service.smoothing.admitted(
            self.smoother, slots, options, self.account, Stages()
        ) as smoothed:
            directions = [await image.direction() for image in smoothed]
            answers = [
                await self._answer(x, self.smoother.encoder.served_tokens(t))
                for x, t in zip((clean, attacked), directions, strict=True)
            ]
            certificates = await self.service.issuer.issue(
                smoothed, await certificates_of(smoothed), Binding(self.request_id)
            )
        bound = next((b.fcsb for b in certificates[0].bounds if b.eps == distance), None)
        return {
            "stage": "defended",
            "clean": answers[0],
            "attacked": answers[1],
            "cosine": float(directions[0] @ directions[1]),
            "bound": bound,
            "certificates": as_json(certificates),
        }

    async def _answer(self, x: Tensor, tokens: Tensor) -> str:
        """vLLM's answer to the question about visual tokens (T, D) of a canvas (3, H, W)."""
        parts = await visual_parts(self.smoother.encoder.adapter, tokens, *x.shape[1:])
        return await self.service.questions.ask(
            QUESTION, parts, max_tokens=_LONGEST_ANSWER, request_id=self.request_id
        )


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
