"""The images of a request on their way to the sampler: plan, admission, charge, decoding, queue."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress

from smoothgate import metrics
from smoothgate.errors import TooLarge, Unacceptable
from smoothgate.gate.accounts import Account
from smoothgate.gate.admission import Admission
from smoothgate.gate.chat_images import ImageSlot
from smoothgate.gate.commitment_log import CommitmentLog
from smoothgate.gate.gatekeeper import Gatekeeper
from smoothgate.gate.image_decoding import ImageDecoder
from smoothgate.gate.policy import OperatorPolicy
from smoothgate.gate.request_timing import Stages
from smoothgate.gate.vote_plan import VotePlan
from smoothgate.off_loop import off_loop
from smoothgate.sampling.sampling_plan import Plan
from smoothgate.sampling.smoother import Smoothed, Smoother
from smoothgate.schemas import SmoothingOptions
from smoothgate.vision import DecodedImage


@asynccontextmanager
async def sampling(
    smoother: Smoother,
    images: Sequence[DecodedImage],
    plan: Plan,
    *,
    ends: float,
    scope: str = "",
    fresh: bool = False,
    log: CommitmentLog | None = None,
) -> AsyncIterator[list[Smoothed]]:
    """Queue the images of one request; their sampling ends with the block, whatever is left of it.

    Args:
        smoother: draws the samples.
        images: share the alpha of the plan, and their turns at the device.
        plan: how they are sampled.
        ends: `time.monotonic()` at which drawing ends. Certificates are made from what has been drawn.
        scope: of the client. Only clients of one scope get each other's results from the cache.
        fresh: whether to draw noise that was never drawn before, and to keep no result.
        log: takes commitments before the first noise is drawn; None: there are none.

    Raises:
        NotReady: the sampler does not run, or the log cannot be written to.
    """
    request = object()
    prepared: list[Smoothed] = []
    try:
        for image in images:
            prepared.append(
                await smoother.prepare(
                    image,
                    plan,
                    images=len(images),
                    deadline=ends,
                    request=request,
                    earlier=prepared,
                    scope=scope,
                    fresh=fresh,
                )
            )
        if log is not None:
            requests = [(one.request, f"{one.seed:032x}") for one in prepared]
            commitments = await log.commit(requests, smoother.seeds.secret_digest)
            for smoothed, commitment in zip(prepared, commitments, strict=True):
                smoothed.commitment = commitment
        for smoothed in prepared:
            smoothed.begin()
        yield prepared
    finally:
        for smoothed in prepared:
            smoothed.cancel()


class ImageSmoothing:
    """Admits the images of requests, decodes and samples them.

    Args:
        policy: what a request may ask for.
        admission: room at the sampler.
        gatekeeper: the limits of an account.
        decoder: reads the images.
        max_images: of one request.
        sampling_seconds: the longest time that the images of a request are sampled.
        log: takes commitments before the first noise is drawn; None: there are none.
    """

    def __init__(
        self,
        policy: OperatorPolicy,
        admission: Admission,
        gatekeeper: Gatekeeper,
        decoder: ImageDecoder,
        *,
        max_images: int,
        sampling_seconds: float,
        log: CommitmentLog | None,
    ) -> None:
        self._policy = policy
        self._admission = admission
        self._gatekeeper = gatekeeper
        self._decoder = decoder
        self._max_images = max_images
        self._sampling_seconds = sampling_seconds
        self._log = log

    @asynccontextmanager
    async def admitted(
        self,
        smoother: Smoother,
        slots: Sequence[ImageSlot],
        options: SmoothingOptions,
        account: Account | None,
        stages: Stages,
    ) -> AsyncIterator[list[Smoothed]]:
        """Sample the images of a request, on its terms; sampling ends with the block.

        Raises:
            NotReady: the sampler does not run, or the log cannot be written to.
            Overloaded: more work than there is room for, or than the account may ask for.
            Unacceptable: options outside the limits, or a budget that could certify nothing.
            TooLarge, MalformedRequest, Unacceptable: as `ImageDecoder.decode`; too many images.
        """
        self._require_few(slots)
        plan = await self._planned(smoother, options, len(slots))
        async with AsyncExitStack() as stack:
            async with self._decoded(smoother, slots, plan.samples, account, stages) as (images, _):
                scope = "" if account is None else account.cache_salt
                smoothed = await stack.enter_async_context(
                    sampling(smoother, images, plan, ends=self.ends(), scope=scope, log=self._log)
                )
            yield smoothed

    async def vote_plan(self, slots: Sequence[ImageSlot], options: SmoothingOptions) -> VotePlan:
        """How the vote of a request is held; raises `Unacceptable` and `TooLarge` as `admitted`."""
        self._require_few(slots)
        plan = self._policy.vote_plan(options)
        await off_loop(plan.require_reachable)
        return plan

    def vote_images(
        self,
        smoother: Smoother,
        slots: Sequence[ImageSlot],
        plan: VotePlan,
        account: Account | None,
        stages: Stages,
    ) -> AbstractAsyncContextManager[tuple[list[DecodedImage], Callable[[], None]]]:
        """Admit and decode the images of a request whose answer is certified; raises as `admitted`.

        Yields:
            The images, and what gives back their room, to be called once they are queued. The end of the
            block gives it back too.
        """
        return self._decoded(smoother, slots, plan.samples, account, stages)

    def certifies_answer(self, options: SmoothingOptions) -> bool:
        """Whether a request has its answer certified; raises as `OperatorPolicy.certifies_answer`."""
        return self._policy.certifies_answer(options)

    def ends(self) -> float:
        """`time.monotonic()` at which the sampling of a request ends that begins now."""
        return time.monotonic() + self._sampling_seconds

    @asynccontextmanager
    async def _decoded(
        self,
        smoother: Smoother,
        slots: Sequence[ImageSlot],
        samples: int,
        account: Account | None,
        stages: Stages,
    ) -> AsyncIterator[tuple[list[DecodedImage], Callable[[], None]]]:
        """The decoded images of a request that draws so many samples of each. Room is kept for them until the
        block ends, or what comes with them is called.
        """
        # Of images of typical size. Before they are decoded, nobody knows.
        expected = len(slots) * samples
        with self._admission.reserved(smoother.sampler, expected) as hold:
            self._gatekeeper.charge(account, expected)
            images = await self._decoder.decode(slots)
            work = await off_loop(smoother.work, images, samples)
            hold(work)
            self._gatekeeper.correct(account, work - expected)
            stages.decode = stages.now()
            yield images, lambda: hold(0)

    async def unsmoothed(self, slots: Sequence[ImageSlot], stages: Stages) -> list[DecodedImage]:
        """The images of a request that switches smoothing off.

        Raises:
            Unacceptable: the operator does not allow that; else as `admitted`.
        """
        self._policy.require_off_allowed()
        self._require_few(slots)
        images = await self._decoder.decode(slots)
        stages.decode = stages.now()
        return images

    def _require_few(self, slots: Sequence[ImageSlot]) -> None:
        if len(slots) > self._max_images:
            raise TooLarge(
                f"The request holds {len(slots)} images, this service takes {self._max_images}.",
                param=slots[self._max_images].param,
                code="too_many_images",
            )

    async def _planned(self, smoother: Smoother, options: SmoothingOptions, images: int) -> Plan:
        """The plan of a request; under load with fewer samples, if those could still certify something."""
        plan = self._policy.plan(options)
        await off_loop(plan.require_reachable, images, smoother.chance_cosine(plan.sigma))
        if options.n_certify is not None:
            return plan
        fewer = self._admission.stepped_down(smoother.sampler, plan)
        if fewer.degraded_from is not None:
            with suppress(Unacceptable):
                await off_loop(fewer.require_reachable, images, smoother.chance_cosine(plan.sigma))
                metrics.DEGRADED.labels(str(fewer.n_certify)).inc()
                return fewer
        return plan
