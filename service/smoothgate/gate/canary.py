"""The canary: a known picture that goes the whole way, again and again.

Threads that run and a vLLM that answers its health check may still produce nonsense: weights damaged in
memory, a kernel that computes wrong, an engine that lost its model. The canary's score is held against its
calibrated one, its feature against that of the first canary, and the engine has to answer about it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from smoothgate import metrics
from smoothgate.bundled import CANARY
from smoothgate.engine import Engine, EngineState
from smoothgate.errors import SmoothgateError
from smoothgate.gate.image_smoothing import sampling
from smoothgate.gate.readiness import Readiness
from smoothgate.gate.visual_chat import VisualQuestions, visual_parts
from smoothgate.logs import get_logger
from smoothgate.sampling.sampling_plan import Plan
from smoothgate.sampling.smoother import Smoother
from smoothgate.vision import decode

_SAMPLES = 64
# Of a certificate that is never made.
_ALPHA = 0.001
# Directions of one picture from two sets of samples have at least this share of the cosine that is expected.
_SAME_PICTURE = 0.9
_POLL_SECONDS = 0.2
_RETRY_SECONDS = 5.0
_LONGEST_SECONDS = 60.0

log = get_logger("canary")


def canary_plan(sigma: float, eps: tuple[float, ...], cosine_threshold: float) -> Plan:
    """How canaries are sampled: few samples at the usual noise, whatever the policy is."""
    return Plan(sigma, _SAMPLES, _SAMPLES, _ALPHA, eps, cosine_threshold)


class Canary:
    """Sends canaries and remembers how the latest one ended.

    Args:
        readiness: canaries are sent only while all parts are up.
        engine: is asked whether it still refuses pixels.
        questions: asks vLLM about the smoothed picture.
        plan: how the picture is sampled.
        tolerance: how far a score may be from the calibrated one.
        pause_seconds: between two canaries.
    """

    def __init__(
        self,
        readiness: Readiness,
        engine: Engine,
        questions: VisualQuestions,
        plan: Plan,
        *,
        tolerance: float,
        pause_seconds: float,
    ) -> None:
        self._readiness = readiness
        self._engine = engine
        self._questions = questions
        self._plan = plan
        self._tolerance = tolerance
        self._pause_seconds = pause_seconds
        self._picture = decode((CANARY).read_bytes(), max_pixels=10**6)
        self._first: tuple[float, Tensor] | None = None
        #: What is wrong, or None.
        self.problem: str | None = "not sent yet"

    async def run(self) -> None:
        """Send canaries until cancelled."""
        while True:
            if self._readiness.problems():
                await asyncio.sleep(_POLL_SECONDS)
                continue
            await self.send()
            await asyncio.sleep(self._pause_seconds if self.problem is None else _RETRY_SECONDS)

    async def send(self) -> None:
        """Send one, and set `problem`."""
        started = time.monotonic()
        outcome = "failed"
        try:
            smoother = self._readiness.require_smoother()
            async with asyncio.timeout(_LONGEST_SECONDS):
                score, direction = await self._go_whole_way(smoother)
            metrics.CANARY_SCORE.set(score)
            problem = self._drift(score, direction, smoother.encoder.calibration.figures.canary_scores)
            outcome = "drift" if problem else "ok"
        except SmoothgateError as error:
            problem = error.message
        except TimeoutError:
            problem = f"no answer within {_LONGEST_SECONDS:g} s"
        except Exception as error:
            log.error("the canary failed in an unexpected way", exc_info=error)
            problem = "internal error"
        metrics.CANARIES.labels(outcome).inc()
        seconds = round(time.monotonic() - started, 3)
        if problem:
            log.error("canary", outcome=outcome, reason=problem, seconds=seconds)
        else:
            log.info("canary", outcome=outcome, score=round(score, 4), seconds=seconds)
        self.problem = problem

    async def _go_whole_way(self, smoother: Smoother) -> tuple[float, Tensor]:
        """The mean score and the direction of the picture, after vLLM has answered about it."""
        picture, adapter = self._picture, smoother.encoder.adapter
        ends = time.monotonic() + _LONGEST_SECONDS
        async with sampling(smoother, [picture], self._plan, ends=ends, fresh=True) as (smoothed,):
            direction = await smoothed.direction()
            scores = await smoothed.certification_scores()
            tokens = smoother.encoder.served_tokens(direction)
            parts = await visual_parts(adapter, tokens, picture.height, picture.width)
            await self._ask_engine(parts)
        return sum(scores) / len(scores), direction

    async def _ask_engine(self, parts: list[dict[str, Any]]) -> None:
        """See whether vLLM still refuses pixels, and answers.

        A canary passes without an engine that readiness does not follow: one that other gates share, or none.
        """
        if self._engine.status.state is not EngineState.READY and self._engine.readiness_problem is None:
            return
        try:
            await self._engine.check()
            await self._questions.ask("What is shown?", parts, max_tokens=1, request_id="canary")
        except SmoothgateError as error:
            if not self._engine.shared:
                raise
            metrics.CANARIES.labels("engine").inc()
            log.error("the engine did not answer a canary", reason=error.message)

    def _drift(self, score: float, direction: Tensor, calibrated: Mapping[str, float]) -> str | None:
        """How the result differs from the canary's calibrated score and from the first canary, or None.

        Where the canary was not scored at this sigma, the first score stands for the calibrated one: the mean
        over an operator's pictures says nothing about a bundled digit.
        """
        if self._first is None:
            self._first = score, direction
        first_score, first_direction = self._first
        expected = calibrated.get(f"{self._plan.sigma:g}", first_score)
        if abs(score - expected) > self._tolerance:
            return f"score {score:.3f} instead of {expected:.3f}"
        cosine = float(direction @ first_direction)
        if cosine < _SAME_PICTURE * _expected_cosine(first_score):
            return f"cosine {cosine:.3f} with the feature that the same picture had at the start"
        return None


def _expected_cosine(score: float) -> float:
    """Cosine between the mean directions of two sets of samples whose mean score is this.

    Unit vectors whose mean has length r have the variance 1 - r^2, which a set divides by its size: it is
    above 0.99 with a PSM that works, and below 0.9 where an encoder scarcely stands the noise.
    """
    squared = (2 * score - 1) ** 2
    return squared / (squared + (1 - squared) / _SAMPLES)
