"""The way of a request: images found, decoded, smoothed, replaced by their served tokens; then the engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from smoothgate import metrics, tracing
from smoothgate.engine import ChatStream
from smoothgate.engine.placeholders import neutralise_messages
from smoothgate.engine.visual_token_parts import image_parts
from smoothgate.errors import PolicyNotMet, RequestTimedOut, SmoothgateError, TooLarge, Unacceptable
from smoothgate.gate.accounts import Account
from smoothgate.gate.chat_images import Message, Slot, image_bytes, with_images_replaced
from smoothgate.gate.runtime import Runtime
from smoothgate.gate.schemas import IssuedCertificate, SmoothingOptions
from smoothgate.sampling.sampling_plan import Plan
from smoothgate.sampling.smoother import Smoothed, Smoother
from smoothgate.vision import DecodedImage, decode

# Sampling ends early enough that the certificate can still be made and sent.
_SAMPLING_SHARE = 0.8


@dataclass(slots=True)
class Stages:
    """Seconds from the start of a request to the end of each stage."""

    started: float = field(default_factory=time.perf_counter)
    decode: float = 0.0
    select: float = 0.0
    certify: float = 0.0
    engine: float = 0.0

    def now(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.started


@dataclass(slots=True)
class Prepared:
    """A chat whose images are replaced by what the engine may see.

    `issuing` makes one signed certificate per image while the engine works; None for chats without images and
    where smoothing is off.
    """

    messages: list[Message]
    stages: Stages
    smoothed: list[Smoothed] = field(default_factory=list)
    issuing: asyncio.Task[list[IssuedCertificate]] | None = None

    async def certificates(self) -> list[IssuedCertificate]:
        """One per image, once all sampling has ended."""
        return [] if self.issuing is None else await self.issuing

    def cancel(self) -> None:
        """Nobody waits for this any more, or all of it is done."""
        if self.issuing is not None:
            self.issuing.cancel()
        cancel(self.smoothed)


async def issue(runtime: Runtime, smoothed: Sequence[Smoothed], stages: Stages) -> list[IssuedCertificate]:
    """One signed certificate per image, once all sampling has ended."""
    made = []
    with tracing.stage("certify"):
        for image in smoothed:
            certificate = await image.certificate()
            made.append(await runtime.issuer.issue(certificate, *image.scores()))
    stages.certify = stages.now()
    return made


def _issue_beside(
    runtime: Runtime, smoothed: Sequence[Smoothed], stages: Stages
) -> asyncio.Task[list[IssuedCertificate]]:
    task = asyncio.create_task(issue(runtime, smoothed, stages))
    # Where the request has failed already, nobody asks for this failure.
    task.add_done_callback(lambda done: None if done.cancelled() else done.exception())
    return task


@asynccontextmanager
async def deadline(seconds: float) -> AsyncIterator[None]:
    """RequestTimedOut where the body takes longer."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise RequestTimedOut(f"The request took longer than {seconds:g} seconds.") from error


def _require_few(runtime: Runtime, slots: Sequence[Slot]) -> None:
    most = runtime.settings.max_images
    if len(slots) > most:
        raise TooLarge(
            f"The request holds {len(slots)} images, this service takes {most}.",
            param=slots[most].param,
            code="too_many_images",
        )


async def decode_images(runtime: Runtime, slots: Sequence[Slot]) -> list[DecodedImage]:
    """The pictures of a request: fetched where they are URLs, decoded off the event loop.

    Raises:
        TooLarge: more bytes or pixels than the operator allows.
        MalformedRequest, Unacceptable: as `image_bytes`, `Fetcher.fetch` and `decode`.
    """
    started = time.perf_counter()
    with tracing.stage("decode"):
        images = [await _decode_image(runtime, slot) for slot in slots]
    metrics.STAGE_SECONDS.labels("decode").observe(time.perf_counter() - started)
    return images


async def _decode_image(runtime: Runtime, slot: Slot) -> DecodedImage:
    settings = runtime.settings
    data = await image_bytes(slot, runtime.fetcher, max_bytes=settings.max_image_bytes)
    work = partial(decode, data, max_pixels=settings.max_image_pixels, param=slot.param)
    decoding = asyncio.get_running_loop().run_in_executor(runtime.decoders, work)
    try:
        # A thread cannot be stopped: it is left to end by itself, and the others go on beside it.
        return await asyncio.wait_for(asyncio.shield(decoding), settings.decode_timeout_seconds)
    except TimeoutError as error:
        raise Unacceptable(
            f"The image was not decoded within {settings.decode_timeout_seconds:g} s.",
            param=slot.param,
            code="decode_timeout",
        ) from error


async def _planned(runtime: Runtime, smoother: Smoother, options: SmoothingOptions, images: int) -> Plan:
    """The sampling parameters of a request.

    Raises:
        Unacceptable: parameters outside the operator's limits, or a budget that could certify nothing.
    """
    plan = options.plan(runtime.settings)
    await asyncio.to_thread(plan.require_reachable, images, smoother.chance_cosine)
    if options.n_certify is not None:
        return plan
    fewer = runtime.admission.stepped_down(smoother.sampler, plan, runtime.settings)
    if fewer.degraded_from is not None:
        with suppress(Unacceptable):
            await asyncio.to_thread(fewer.require_reachable, images, smoother.chance_cosine)
            metrics.DEGRADED.labels(str(fewer.n_certify)).inc()
            return fewer
    return plan


async def smooth(
    runtime: Runtime,
    account: Account | None,
    slots: Sequence[Slot],
    options: SmoothingOptions,
    stages: Stages,
) -> list[Smoothed]:
    """Admit the images of a request, decode and queue them.

    Raises:
        NotReady: the sampler does not run.
        Overloaded: more samples than there is room for, or than the client may draw.
        Unacceptable: parameters outside the operator's limits, or a budget that could certify nothing.
        TooLarge, MalformedRequest: as `decode_images`.
    """
    smoother = runtime.require_ready("encoder", "sampler")
    _require_few(runtime, slots)
    plan = await _planned(runtime, smoother, options, len(slots))
    cost = len(slots) * plan.samples
    ends = time.monotonic() + _SAMPLING_SHARE * runtime.settings.request_timeout_seconds
    begun: list[Smoothed] = []
    request = object()
    with runtime.admission.reserved(smoother.sampler, cost, runtime.settings):
        runtime.gatekeeper.charge(account, cost)
        images = await decode_images(runtime, slots)
        stages.decode = stages.now()
        try:
            for image in images:
                begun.append(
                    await smoother.begin(image, plan, images=len(images), deadline=ends, request=request)
                )
        except BaseException:
            cancel(begun)
            raise
    return begun


def cancel(smoothed: Sequence[Smoothed]) -> None:
    """Nobody waits for these any more."""
    for image in smoothed:
        image.cancel()


async def prepare(
    runtime: Runtime,
    account: Account | None,
    messages: Sequence[Message],
    slots: Sequence[Slot],
    options: SmoothingOptions,
) -> Prepared:
    """Make a chat ready for the engine: returns when the served tokens are known, certification still going
    on.

    Raises:
        SmoothgateError: of any kind that the parts raise.
    """
    smoother = runtime.require_ready()
    stages = Stages()
    adapter = smoother.encoder.adapter
    cleaned = neutralise_messages(messages, adapter.placeholders)
    if not slots:
        return Prepared(cleaned, stages)
    raw = options.mode == "off"
    if raw and (not runtime.settings.allow_smoothing_off or runtime.settings.policy == "enforce"):
        raise Unacceptable(
            "This service does not allow smoothing to be switched off.",
            param="smoothing.mode",
            code="not_allowed",
        )
    prepared = Prepared(cleaned, stages)
    try:
        if raw:
            _require_few(runtime, slots)
            images = await decode_images(runtime, slots)
            stages.decode = stages.now()
            tokens = [await asyncio.to_thread(smoother.encoder.raw_tokens, image) for image in images]
        else:
            prepared.smoothed = await smooth(runtime, account, slots, options, stages)
            prepared.issuing = _issue_beside(runtime, prepared.smoothed, stages)
            with tracing.stage("select"):
                tokens = [await each.tokens() for each in prepared.smoothed]
                images = [each.image for each in prepared.smoothed]
            plan = prepared.smoothed[0].plan
            if plan.enforce:
                _require_certified(plan, await prepared.certificates())
        stages.select = stages.now()
        parts = [
            image_parts(
                t,
                await asyncio.to_thread(adapter.prompt, image.height, image.width),
                hidden_size=adapter.hidden_size,
                dtype=runtime.dtype,
            )
            for t, image in zip(tokens, images, strict=True)
        ]
        prepared.messages = with_images_replaced(cleaned, slots, parts)
    except BaseException:
        prepared.cancel()
        raise
    return prepared


def _require_certified(plan: Plan, certificates: Sequence[IssuedCertificate]) -> None:
    missed = sum(certificate.outcome != "certified" for certificate in certificates)
    if missed and plan.target is not None:
        raise PolicyNotMet(
            f"A cosine of {plan.target.cosine:g} at {plan.target.eps:g} was to be certified; "
            f"{missed} of {len(certificates)} images missed it, and the language model was not asked.",
            [certificate.model_dump(mode="json") for certificate in certificates],
        )


async def open_stream(
    runtime: Runtime, route: str, preparing: Awaitable[tuple[Prepared, dict[str, Any]]], request_id: str
) -> tuple[Prepared, ChatStream]:
    """Everything up to vLLM's acceptance of a streamed answer, so that refusals still have a status of their
    own.

    Args:
        runtime: of the app.
        route: for the metrics.
        preparing: the chat, and the body that vLLM gets.
        request_id: sent along.
    """
    try:
        async with deadline(runtime.settings.request_timeout_seconds):
            prepared, body = await preparing
            try:
                return prepared, await runtime.engine.client.stream(body, request_id)
            except BaseException:
                prepared.cancel()
                raise
    except SmoothgateError as error:
        # From here on the time of a stream is measured by whoever sends it; this one ended before.
        metrics.REQUEST_SECONDS.labels(route, error.code).observe(0.0)
        raise
