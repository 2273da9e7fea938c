"""The canary: a known picture that goes the whole way, again and again.

Threads that run and a vLLM that answers its health check may still produce nonsense: weights damaged in
memory, a kernel that computes wrong, an engine that lost its model. The canary's score is held against the
calibrated one, its feature against that of the first canary, and the engine has to answer about it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import structlog
from torch import Tensor

from smoothgate import metrics
from smoothgate.demo import bundled
from smoothgate.engine import image_parts
from smoothgate.errors import SmoothgateError
from smoothgate.sampling.sampling_plan import Plan
from smoothgate.sampling.smoother import Smoother
from smoothgate.vision import decode

if TYPE_CHECKING:
    from smoothgate.gate.runtime import Runtime

PICTURE = "seven.png"

_SAMPLES = 64
_ALPHA = 0.001
# Directions of one picture from two sets of 64 samples have cosines above 0.99 with a PSM that works.
_SAME_PICTURE = 0.9
_POLL_SECONDS = 0.2
_RETRY_SECONDS = 5.0
_LONGEST_SECONDS = 60.0

log = structlog.get_logger("canary")


class Canary:
    """Sends canaries and remembers what came of the latest.

    Args:
        runtime: the service.
        up: whether everything else is up, so that it makes sense to send one.
    """

    def __init__(self, runtime: Runtime, up: Callable[[], bool]) -> None:
        self._runtime = runtime
        self._up = up
        self._picture = decode((bundled("samples") / PICTURE).read_bytes(), max_pixels=10**6)
        self._first: Tensor | None = None
        self._first_score: float | None = None
        #: What is wrong, or None.
        self.problem: str | None = "not sent yet"

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            if not self._up():
                await asyncio.sleep(_POLL_SECONDS)
                continue
            await self.send()
            ok = self.problem is None
            await asyncio.sleep(self._runtime.settings.canary_seconds if ok else _RETRY_SECONDS)

    async def send(self) -> None:
        """Send one, and set `problem`."""
        started = time.monotonic()
        outcome = "failed"
        try:
            async with asyncio.timeout(_LONGEST_SECONDS):
                score, direction = await self._whole_way()
            drift = self._drift(score, direction)
            outcome = "drift" if drift else "ok"
        except SmoothgateError as error:
            drift = error.message
        except TimeoutError:
            drift = f"no answer within {_LONGEST_SECONDS:g} s"
        except Exception as error:
            log.error("the canary failed in an unexpected way", exc_info=error)
            drift = "internal error"
        metrics.CANARIES.labels(outcome).inc()
        seconds = round(time.monotonic() - started, 3)
        if drift:
            log.error("canary", outcome=outcome, reason=drift, seconds=seconds)
        else:
            log.info("canary", outcome=outcome, score=round(score, 4), seconds=seconds)
        self.problem = drift

    async def _whole_way(self) -> tuple[float, Tensor]:
        runtime = self._runtime
        smoother = runtime.smoother
        if smoother is None:
            raise SmoothgateError("the encoder is not loaded")
        s = runtime.settings
        plan = Plan(s.sigma, _SAMPLES, _SAMPLES, _ALPHA, s.eps, s.cosine_threshold)
        ends = time.monotonic() + _LONGEST_SECONDS
        smoothed = await smoother.begin(self._picture, plan, images=1, deadline=ends, fresh=True)
        try:
            direction = await smoothed.direction()
            certification = await smoothed.certification_scores()
            await self._ask(smoother, smoother.encoder.served_tokens(direction))
        finally:
            smoothed.cancel()
        return sum(certification) / len(certification), direction

    async def _ask(self, smoother: Smoother, tokens: Tensor) -> None:
        adapter = smoother.encoder.adapter
        prompt = await asyncio.to_thread(adapter.prompt, self._picture.height, self._picture.width)
        parts: list[dict[str, Any]] = image_parts(
            tokens, prompt, hidden_size=adapter.hidden_size, dtype=self._runtime.dtype
        )
        content = [*parts, {"type": "text", "text": "What is shown?"}]
        body = {
            "model": self._runtime.model_name,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": 1,
            "temperature": 0,
        }
        await self._runtime.engine.client.chat(body, "canary")

    def _drift(self, score: float, direction: Tensor) -> str | None:
        runtime = self._runtime
        assert runtime.smoother is not None  # noqa: S101
        metrics.CANARY_SCORE.set(score)
        if self._first is None or self._first_score is None:
            self._first, self._first_score = direction, score
        calibrated = runtime.smoother.encoder.calibration.figures.scores
        expected = calibrated.get(f"{runtime.settings.sigma:g}", self._first_score)
        if abs(score - expected) > runtime.settings.canary_tolerance:
            return f"score {score:.3f} instead of {expected:.3f}"
        cosine = float(direction @ self._first)
        if cosine < _SAME_PICTURE:
            return f"cosine {cosine:.3f} with the feature that the same picture had at the start"
        return None
