"""Smooths images: canvas, sampling, served tokens, certificate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256

import torch
from torch import Tensor

from smoothgate import metrics
from smoothgate.certify import commitment
from smoothgate.certify.certificate import Certificate, Commitment, NoiseRecord
from smoothgate.certify.statement import Terms
from smoothgate.errors import NotReady
from smoothgate.off_loop import off_loop
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.sampling import noise
from smoothgate.sampling.certificate_parts import certified_image, certified_model, chance_at
from smoothgate.sampling.certifier import SamplingResult
from smoothgate.sampling.draw import noisy, numbered_noise
from smoothgate.sampling.noise_seeds import NoiseSeeds, canvas_digest
from smoothgate.sampling.relay_ticket import RelayTicket
from smoothgate.sampling.result_cache import CachedResult, Key, ResultCache, key_of
from smoothgate.sampling.sampler import Sampler
from smoothgate.sampling.sampling_plan import Plan
from smoothgate.sampling.ticket import SamplingTask, Ticket
from smoothgate.vision import Canvas, DecodedImage


class Smoother:
    """Turns decoded images into served tokens and certificates.

    Args:
        encoder: the encoder of the model that is served.
        sampler: draws the samples; None: `use` names it later.
        model_name: name of the model in certificates.
        seeds: of the noise of each picture.
        cache_bytes: size of the results that are kept for later requests about the same image; 0: none.
    """

    def __init__(
        self,
        encoder: UnitEncoder,
        sampler: Sampler | None,
        model_name: str,
        *,
        seeds: NoiseSeeds,
        cache_bytes: int = 0,
    ) -> None:
        self.encoder = encoder
        self._sampler = sampler
        self.seeds = seeds
        self._cache = ResultCache(cache_bytes)
        self.model = certified_model(encoder, model_name)

    @property
    def sampler(self) -> Sampler:
        """What draws the samples.

        Raises:
            NotReady: it is not known yet.
        """
        if self._sampler is None:
            raise NotReady("The sampler is being set up.", code="sampler_down", retry_after=1)
        return self._sampler

    def use(self, sampler: Sampler) -> None:
        """Name what draws the samples."""
        self._sampler = sampler

    def chance_cosine(self, sigma: float) -> float | None:
        """95th percentile of the cosine of unrelated images at a sigma, or None where it is not calibrated.

        A bound that is not above it is vacuous.
        """
        chance = chance_at(self.encoder, sigma)
        return None if chance is None else chance.p95

    def work(self, images: Sequence[DecodedImage], samples: int) -> int:
        """Work that so many samples of each image take, in noisy forwards of a canvas of typical size. Takes
        milliseconds for a size that is new.

        Raises:
            Unacceptable: the model does not take an image of this size.
        """
        values = self.encoder.adapter.canvas_values
        return sum(self.sampler.work(values(one.height, one.width), samples) for one in images)

    async def prepare(
        self,
        image: DecodedImage,
        plan: Plan,
        *,
        images: int,
        deadline: float,
        request: Hashable = None,
        earlier: Sequence[Smoothed] = (),
        scope: str = "",
        fresh: bool = False,
    ) -> Smoothed:
        """One of the `images` images of a request, with its seed. It is not queued before `Smoothed.begin`.

        Args:
            image: the decoded image.
            plan: the parameters of the request.
            images: number of images that share its alpha.
            deadline: `time.monotonic()` at which drawing ends. The certificate is made from what is drawn.
            request: identifies the request. Images of one request share its turns at the device.
            earlier: images of the request before this one. Equal ones get other noise.
            scope: of the client. Only clients of one scope get each other's results from the cache.
            fresh: whether to draw noise that was never drawn before, and to keep no result.
        """
        terms = plan.terms(images, self.chance_cosine(plan.sigma))
        canvas, task, digest = await off_loop(self._task, image, terms, plan)
        if fresh:
            seed = noise.fresh_seed()
        else:
            copy = sum(one.canvas_digest == digest for one in earlier)
            seed = self.seeds.seed(digest, self.model.digest, copy)
        key, known = None, None
        if self._cache.max_bytes > 0 and not fresh:
            key = key_of(scope, seed, task)
            known = self._cache.get(key)
            metrics.CACHE.labels("miss" if known is None else "hit").inc()
        ticket = Ticket(task, seed, deadline=deadline, request=request)
        if known is not None:
            ticket.finish(known.direction, known.result)
        elif key is not None:
            ticket.result.add_done_callback(partial(self._keep, key, ticket))
        return Smoothed(self, image, canvas, digest, ticket, plan, cached=known is not None)

    async def relay(
        self,
        image: DecodedImage,
        *,
        sigma: float,
        samples: int,
        n_select: int,
        deliver: Callable[[int, Tensor], None],
        failed: Callable[[Exception], None],
        deadline: float,
        request: Hashable = None,
        earlier: Sequence[Relayed] = (),
    ) -> Relayed:
        """An image whose noisy unit features are handed on, as `RelayTicket` says, with its seed. It is not
        queued before `Relayed.begin`.

        Args:
            earlier: images of the request before this one. Equal ones get other noise.
        """
        canvas = await off_loop(self.encoder.adapter.canvas, image)
        digest = await off_loop(canvas_digest, canvas.x, canvas.layout)
        copy = sum(one.canvas_digest == digest for one in earlier)
        ticket = RelayTicket(
            canvas.x,
            canvas.layout,
            sigma=sigma,
            seed=self.seeds.seed(digest, self.model.digest, copy),
            samples=samples,
            n_select=n_select,
            deliver=deliver,
            failed=failed,
            deadline=deadline,
            request=request,
        )
        return Relayed(self, image, canvas, digest, ticket)

    def _task(self, image: DecodedImage, terms: Terms, plan: Plan) -> tuple[Canvas, SamplingTask, bytes]:
        """What is sampled for an image, and the digest of its canvas. Takes milliseconds."""
        canvas = self.encoder.adapter.canvas(image)
        task = SamplingTask(canvas.x, terms, plan.n_select, plan.n_certify, canvas.layout)
        return canvas, task, canvas_digest(canvas.x, canvas.layout)

    def _keep(self, key: Key, ticket: Ticket, done: Future[SamplingResult]) -> None:
        """Put a result into the cache, unless a deadline cut it short."""
        if done.cancelled() or done.exception() is not None:
            return
        result = done.result()
        if result.reason != "deadline":
            self._cache.put(key, CachedResult(ticket.direction.result(), result))

    def certificate(
        self,
        image: DecodedImage,
        canvas: Canvas,
        ticket: Ticket,
        plan: Plan,
        *,
        cached: bool,
        commitment: Commitment | None,
    ) -> Certificate:
        """The certificate of a finished ticket."""
        task, result = ticket.task, ticket.result.result()
        tokens = self.encoder.served_tokens(ticket.direction.result())
        return Certificate.of(
            result.rule.statement(),
            stop_reason=result.reason,
            space=self.encoder.adapter.space,
            time=datetime.now(UTC),
            image=certified_image(image, canvas),
            model=self.model,
            noise=NoiseRecord(
                sigma=task.terms.sigma,
                generator=noise.GENERATOR.name,
                seed=f"{ticket.seed:032x}",
                streams=2,
                n_select=task.n_select,
                n_certify=result.rule.n,
                budget=task.budget,
                degraded_from=plan.degraded_from,
            ),
            chance=chance_at(self.encoder, task.terms.sigma),
            served_tokens_sha256=sha256(tokens.numpy().astype("<f4").tobytes()).hexdigest(),
            cached=cached,
            commitment=commitment,
        )


class Relayed:
    """An image whose noisy features are handed on, or will be.

    Attributes:
        certified: the image as certificates describe it.
        canvas_digest: of its canvas.
        seed: of the noise.
    """

    def __init__(
        self,
        smoother: Smoother,
        image: DecodedImage,
        canvas: Canvas,
        canvas_digest: bytes,
        ticket: RelayTicket,
    ) -> None:
        self.certified = certified_image(image, canvas)
        self.canvas_digest = canvas_digest
        self.seed = ticket.seed
        self._smoother = smoother
        self._ticket = ticket

    def begin(self) -> None:
        """Queue it.

        Raises:
            NotReady: the sampler is not running.
        """
        self._smoother.sampler.submit(self._ticket)

    def allow(self, samples: int) -> None:
        """Let so many samples be drawn in all."""
        self._smoother.sampler.allow(self._ticket, samples)

    def cancel(self) -> None:
        """Draw nothing more, and hand nothing on."""
        self._ticket.cancel()
        self._smoother.sampler.wake()


class Smoothed:
    """One image that is being sampled, or will be, or has been, with the parameters of `plan`.

    Attributes:
        commitment: to its request and seed, where a log has taken one.
    """

    def __init__(
        self,
        smoother: Smoother,
        image: DecodedImage,
        canvas: Canvas,
        canvas_digest: bytes,
        ticket: Ticket,
        plan: Plan,
        *,
        cached: bool = False,
    ) -> None:
        self._smoother = smoother
        self.image = image
        self._canvas = canvas
        self.canvas_digest = canvas_digest
        self._ticket = ticket
        self.plan = plan
        self.commitment: Commitment | None = None
        self._cached = cached
        self._started = time.perf_counter()

    def begin(self) -> None:
        """Queue it, unless its result is known.

        Raises:
            NotReady: the sampler is not running.
        """
        if not self._cached:
            self._smoother.sampler.submit(self._ticket)

    async def direction(self) -> Tensor:
        """t (T * D) float32. Waits for the selection samples.

        Raises:
            SamplerFailed: the sampler failed.
            NotReady: the sampler is being shut down.
            Unacceptable: the noisy features have no common direction.
        """
        direction = await asyncio.wrap_future(self._ticket.direction)
        metrics.STAGE_SECONDS.labels("select").observe(time.perf_counter() - self._started)
        return direction

    async def tokens(self) -> Tensor:
        """The served visual tokens (T, D) float32. Waits and raises as `direction`."""
        return self._smoother.encoder.served_tokens(await self.direction())

    async def certificate(self) -> Certificate:
        """The certificate. Waits for the end of sampling; raises as `direction`."""
        await asyncio.wrap_future(self._ticket.result)
        certificate = await off_loop(
            self._smoother.certificate,
            self.image,
            self._canvas,
            self._ticket,
            self.plan,
            cached=self._cached,
            commitment=self.commitment,
        )
        metrics.STAGE_SECONDS.labels("certify").observe(time.perf_counter() - self._started)
        if not self._cached:
            metrics.SAMPLES_PER_IMAGE.observe(certificate.noise.n_select + certificate.noise.n_certify)
        metrics.CERTIFICATES.labels(certificate.outcome).inc()
        metrics.SCORE.observe(certificate.score_estimate)
        metrics.RADIUS.observe(certificate.radius.value or 0.0)
        return certificate

    async def certification_scores(self) -> list[float]:
        """Scores of the certification samples. Waits for the end of sampling; raises as `direction`."""
        result = await asyncio.wrap_future(self._ticket.result)
        scores: list[float] = result.rule.scores.tolist()
        return scores

    def scores(self) -> tuple[list[float], list[float]]:
        """Selection and certification scores, in the order drawn; after `certificate`."""
        result = self._ticket.result.result()
        return result.selection_scores, result.rule.scores.tolist()

    @property
    def seed(self) -> int:
        """The seed of the noise."""
        return self._ticket.seed

    @property
    def request(self) -> dict[str, object]:
        """The part of the request that is committed to."""
        task, terms = self._ticket.task, self._ticket.task.terms
        return commitment.request(
            image=self.image.sha256,
            model=self._smoother.encoder.digest,
            sigma=terms.sigma,
            n_select=task.n_select,
            budget=task.budget,
            alpha=terms.alpha,
            eps=terms.eps,
            cosine_threshold=terms.cosine_threshold,
            cosines=terms.cosines,
            target=None if terms.target is None else (terms.target.cosine, terms.target.eps),
        )

    @property
    def canvas(self) -> Tensor:
        """The canvas (3, H, W) float32 on the CPU."""
        return self._canvas.x

    def copy(self, number: int) -> Tensor:
        """The canvas with the noise of sample `number`: (3, H, W) float32 on the CPU, not clipped."""
        task = self._ticket.task
        numbers = [noise.sample_number(number, task.n_select)]
        source = numbered_noise(noise.GENERATOR, self.seed, numbers)
        return noisy(self.canvas, torch.tensor([task.terms.sigma]), source((1, *self.canvas.shape)))[0]

    def cancel(self) -> None:
        """The client has left: draw nothing more."""
        self._ticket.cancel()
