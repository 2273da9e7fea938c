"""The answer that most noisy copies of the images give, and how many: one generation for each copy.

Samples are numbered. A vote counts once all votes of smaller numbers have been counted, so that what ends
sampling cannot depend on which answers come fast. Noisy copies are drawn no further than a decision may need,
and only a limited number ahead of the answers: memory does not grow with the number of samples.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from torch import Tensor

from smoothgate import metrics
from smoothgate.certify.certificate import Commitment
from smoothgate.certify.stopping import StopReason
from smoothgate.certify.votes import Candidates, VoteCount, VoteStatement, smallest_budget
from smoothgate.gate.generations import Generations
from smoothgate.gate.vote_plan import VotePlan
from smoothgate.off_loop import off_loop
from smoothgate.sampling.smoother import Relayed, Smoother
from smoothgate.vision import DecodedImage

Json = dict[str, Any]

#: Most samples that may be under way, from the draw of their noise to the count of their vote, and most bytes
#: of their features. Two lists of prompts are at vLLM at a time, and as many samples are drawn meanwhile.
AHEAD, AHEAD_BYTES = 256, 512 * 2**20
# Samples that are under way before it is known how large their features are.
_FIRST = 16
#: Answers that a progress names.
SHOWN = 6


@dataclass(frozen=True, slots=True)
class Generation:
    """What the language model makes of one noisy copy.

    Attributes:
        completion: vLLM's JSON.
        text: of the answer.
        canonical: form of the answer; None: it is not of the form that was asked for.
    """

    completion: Json
    text: str
    canonical: str | None


#: The number of a sample, and the unit feature or the visual tokens of each image in it.
Sample = tuple[int, list[Tensor]]


class Asker(Protocol):
    """Asks the language model about noisy copies.

    Attributes:
        most: samples of one call.
        parallel: calls that make sense at a time.
    """

    @property
    def most(self) -> int: ...  # noqa: D102
    @property
    def parallel(self) -> int: ...  # noqa: D102
    async def __call__(self, samples: Sequence[Sample]) -> list[Generation]:
        """The answer to each sample: its number, and the visual tokens (T, D) of each image.

        Raises:
            SmoothgateError: the engine refused or failed.
        """
        ...


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a vote has come.

    Attributes:
        counted: certification samples that are counted.
        budget: most certification samples.
        answers: the most frequent canonical answers of the counted samples with their numbers, at most
            `SHOWN`, the most frequent one first.
    """

    counted: int
    budget: int
    answers: list[tuple[str | None, int]]


#: Takes the progress of a vote, on the event loop. It must not raise.
Report = Callable[[Progress], None]


def unreported(_: Progress) -> None:
    """The report of a vote that nobody watches."""


@dataclass(frozen=True, slots=True)
class Decision:
    """How a vote ended.

    Attributes:
        images: that were sampled.
        commitment: to the request, where a log has taken one.
        candidates: of the selection split.
        served: the first selection sample that gave the candidates' answer.
        statement: what is established.
        reason: why no more samples were drawn.
        generations: answers that were asked for, those included that were not counted.
    """

    images: Sequence[Relayed]
    commitment: Commitment | None
    candidates: Candidates[str | None]
    served: Generation
    statement: VoteStatement
    reason: StopReason
    generations: int

    @property
    def certified(self) -> bool:
        """Whether the answer holds within a radius, and within the one that was asked for."""
        return self.candidates.answer is not None and self.statement.certified


@dataclass(slots=True)
class _Vote:
    """The state of one vote.

    Attributes:
        features: unit features by sample number, one for each image.
        answers: by sample number, of those that wait for smaller numbers.
        selection: answers of the selection split, in order.
        ahead: samples that may be under way.
        fresh: canonical answers of the samples that are counted after it.
    """

    plan: VotePlan
    images: int
    features: dict[int, list[Tensor | None]] = field(default_factory=dict)
    answers: dict[int, Generation] = field(default_factory=dict)
    selection: list[Generation] = field(default_factory=list)
    candidates: Candidates[str | None] | None = None
    count: VoteCount | None = None
    counted: int = 0
    ahead: int = _FIRST
    fresh: Counter[str | None] = field(default_factory=Counter)

    def complete(self, image: int, first: int, units: Tensor) -> list[tuple[int, list[Tensor]]]:
        """Take in features of an image; returns the samples of which all images are there now."""
        self.ahead = max(_FIRST, min(AHEAD, AHEAD_BYTES // (self.images * units[0].nbytes)))
        ready = []
        for number, unit in enumerate(units, first):
            waiting = self.features.setdefault(number, [None] * self.images)
            waiting[image] = unit
            if all(one is not None for one in waiting):
                ready.append((number, [one for one in self.features.pop(number) if one is not None]))
        return ready

    def vote(self, number: int, answer: Generation) -> StopReason | None:
        """Take in an answer, and count all whose turn has come."""
        self.answers[number] = answer
        reason: StopReason | None = None
        while reason is None and self.counted in self.answers:
            reason = self._next(self.answers.pop(self.counted))
            self.counted += 1
        return reason

    def _next(self, answer: Generation) -> StopReason | None:
        if self.count is not None and self.candidates is not None:
            self.fresh[answer.canonical] += 1
            return self.count.update(self.candidates.tally([answer.canonical]))
        self.selection.append(answer)
        if len(self.selection) < self.plan.n_select:
            return None
        self.candidates = Candidates.of([one.canonical for one in self.selection])
        self.count = VoteCount(self.plan.terms, self.candidates.votes, self.plan.budget)
        # No number of samples certifies an answer that is not of the form asked for.
        return None if self.candidates.answer is not None else "unreachable"

    @property
    def progress(self) -> Progress:
        """How far it has come."""
        return Progress(self.fresh.total(), self.plan.budget, self.fresh.most_common(SHOWN))

    @property
    def wanted(self) -> int:
        """Samples in all after which a decision may fall, no further than `ahead`."""
        plan = self.plan
        if self.count is None:
            least = smallest_budget(plan.terms, plan.n_select) if plan.terms.radius is not None else None
            end = plan.n_select + min(least or plan.budget, plan.budget)
        else:
            end = plan.n_select + self.count.tally.n + self._least_further(self.count)
        return min(end, self.counted + self.ahead, plan.samples)

    def _least_further(self, count: VoteCount) -> int:
        """The fewest further samples that may certify the radius; without a radius, all that are left."""
        low, high = 0, count.budget - count.tally.n
        if self.plan.terms.radius is None:
            return high
        while high - low > 1:
            middle = (low + high) // 2
            enough = count.statement_if_unanimous(middle).certified
            low, high = (low, middle) if enough else (middle, high)
        return high


class Voting:
    """Holds votes. All votes share the engine.

    Args:
        generations: of all votes.
    """

    def __init__(self, generations: Generations) -> None:
        self.generations = generations

    async def decide(
        self,
        smoother: Smoother,
        images: Sequence[DecodedImage],
        plan: VotePlan,
        ask: Asker,
        *,
        commit: Callable[[Sequence[Relayed]], Awaitable[Commitment | None]],
        queued: Callable[[], None],
        ends: float,
        report: Report = unreported,
    ) -> Decision:
        """Hold a vote on the images of one request. Whatever ends it ends its draws and its generations.

        Args:
            smoother: draws the noisy copies.
            images: at least one.
            plan: how.
            ask: for generations.
            commit: called once seeds are known and before anything is drawn; takes them into the log.
            queued: called once all images are queued at the sampler.
            ends: `time.monotonic()` at which it ends with the votes that are there.
            report: takes the progress when votes have been counted.

        Raises:
            SmoothgateError: sampling, a generation or `commit` failed.
            TimeoutError: the time was up before the selection was in.
        """
        vote = _Vote(plan, len(images))
        arrived: asyncio.Queue[Callable[[], StopReason | None]] = asyncio.Queue()
        asking: set[asyncio.Task[None]] = set()
        waiting: deque[Sample] = deque()
        generations = under_way = 0
        loop = asyncio.get_running_loop()

        def arrive(event: Callable[[], StopReason | None]) -> None:
            loop.call_soon_threadsafe(arrived.put_nowait, event)

        def features(image: int, first: int, units: Tensor) -> None:
            def take() -> None:
                waiting.extend(vote.complete(image, first, units))

            arrive(take)

        def fails(error: Exception) -> None:
            def raise_it() -> None:
                raise error

            arrive(raise_it)

        def served(samples: Sequence[Sample]) -> list[Sample]:
            to_tokens = smoother.encoder.served_tokens
            return [(number, [to_tokens(unit) for unit in units]) for number, units in samples]

        async def generate(samples: list[Sample]) -> None:
            try:
                async with self.generations.under_way(len(samples)):
                    answers = await ask(await off_loop(served, samples))
                done(len(answers))
            except Exception as error:
                fails(error)
                return
            arrived.put_nowait(partial(count, [number for number, _ in samples], answers))

        def count(numbers: Sequence[int], answers: Sequence[Generation]) -> StopReason | None:
            nonlocal under_way
            under_way -= 1
            metrics.VOTES.inc(len(answers))
            for number, answer in zip(numbers, answers, strict=True):
                if (reason := vote.vote(number, answer)) is not None:
                    return reason
            return None

        def advance(event: Callable[[], StopReason | None]) -> tuple[StopReason | None, int]:
            """Bounds take milliseconds. Nothing else touches the vote meanwhile."""
            return event(), vote.wanted

        relayed: list[Relayed] = []
        reason: StopReason | None = None
        stack = ExitStack()
        try:
            request = object()
            for at, image in enumerate(images):
                relayed.append(
                    await smoother.relay(
                        image,
                        sigma=plan.terms.sigma,
                        samples=plan.samples,
                        n_select=plan.n_select,
                        deliver=partial(features, at),
                        failed=fails,
                        deadline=ends,
                        request=request,
                        earlier=relayed,
                    )
                )
            commitment = await commit(relayed)
            for one in relayed:
                one.begin()
            done = stack.enter_context(self.generations.planned(plan.samples))
            queued()
            wanted = await off_loop(lambda: vote.wanted)
            while reason is None:
                for one in relayed:
                    one.allow(wanted)
                while waiting and under_way < ask.parallel:
                    most = min(ask.most, self.generations.at_most, len(waiting))
                    samples = [waiting.popleft() for _ in range(most)]
                    task = asyncio.create_task(generate(samples))
                    asking.add(task)
                    task.add_done_callback(asking.discard)
                    generations += len(samples)
                    under_way += 1
                try:
                    async with asyncio.timeout(ends - time.monotonic()):
                        event = await arrived.get()
                except TimeoutError:
                    if vote.count is None or not vote.count.tally.n:
                        raise
                    reason = "deadline"
                else:
                    before = vote.counted
                    reason, wanted = await off_loop(advance, event)
                    if vote.counted > before:
                        report(vote.progress)
        finally:
            stack.close()
            for one in relayed:
                one.cancel()
            for task in asking:
                task.cancel()
        assert vote.candidates is not None  # noqa: S101
        assert vote.count is not None  # noqa: S101
        answer = next(one for one in vote.selection if one.canonical == vote.candidates.answer)
        return Decision(
            relayed, commitment, vote.candidates, answer, vote.count.statement(), reason, generations
        )
