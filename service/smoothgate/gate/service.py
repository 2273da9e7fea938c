"""The parts of a running service, started, watched and stopped together."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from smoothgate import metrics
from smoothgate.engine import Engine, NoEngine
from smoothgate.errors import SmoothgateError
from smoothgate.gate.answering import Answering
from smoothgate.gate.canary import Canary
from smoothgate.gate.commitment_log import CommitmentLog
from smoothgate.gate.description import Description
from smoothgate.gate.event_loop_lag import measure_event_loop_lag
from smoothgate.gate.gatekeeper import Gatekeeper
from smoothgate.gate.health import Health
from smoothgate.gate.image_decoding import ImageDecoder
from smoothgate.gate.image_smoothing import ImageSmoothing
from smoothgate.gate.in_flight import InFlight
from smoothgate.gate.issuing import Issuer
from smoothgate.gate.policy import OperatorPolicy
from smoothgate.gate.readiness import Readiness
from smoothgate.gate.served_model import ServedModel
from smoothgate.gate.supervised_smoother import SupervisedSmoother
from smoothgate.gate.visual_chat import VisualQuestions
from smoothgate.off_loop import off_loop
from smoothgate.schemas import SmoothingOptions


@dataclass(slots=True, kw_only=True)
class Service:
    """Everything behind the routes, as `smoothgate.gate.build` puts it together.

    Only `smoothgate.http.app` and the like see it: they give each router the parts that it uses.

    Attributes:
        created: seconds since the epoch.
        failure: why the start failed, where that is known.
    """

    model: ServedModel
    engine: Engine
    smoother: SupervisedSmoother
    readiness: Readiness
    canary: Canary | None
    health: Health
    gatekeeper: Gatekeeper
    in_flight: InFlight
    policy: OperatorPolicy
    decoder: ImageDecoder
    smoothing: ImageSmoothing
    issuer: Issuer
    commitments: CommitmentLog | None
    questions: VisualQuestions
    answering: Answering
    description: Description
    created: int = field(default_factory=lambda: int(time.time()))
    failure: SmoothgateError | None = None
    _opened: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def start(self) -> None:
        """Start vLLM, and meanwhile load the encoder and start the sampler.

        Whatever was opened is closed again where the start fails.

        Raises:
            SmoothgateError: the model, its calibration or the settings do not fit together, the log of
                commitments cannot be opened, or the default budget could certify nothing.
        """
        try:
            async with AsyncExitStack() as opened:
                opened.push_async_callback(_cancelled, asyncio.create_task(measure_event_loop_lag()))
                opened.push_async_callback(self.decoder.aclose)
                if self.gatekeeper.fleet is not None:
                    opened.push_async_callback(_cancelled, asyncio.create_task(self.gatekeeper.fleet.run()))
                if self.commitments is not None:
                    await off_loop(self.commitments.open)
                    opened.push_async_callback(off_loop, self.commitments.close)
                    opened.push_async_callback(_cancelled, asyncio.create_task(self.commitments.watch()))
                await self.engine.start()
                opened.push_async_callback(self.engine.stop)
                opened.push_async_callback(self.smoother.stop)
                await self.smoother.start()
                await off_loop(self.description.export)
                await off_loop(self._require_reachable)
                if self.canary is not None:
                    opened.push_async_callback(_cancelled, asyncio.create_task(self.canary.run()))
                metrics.READY.set_function(lambda: float(not self.health.problems()))
                self._opened = opened.pop_all()
        except SmoothgateError as error:
            self.failure = error
            raise

    def _require_reachable(self) -> None:
        """Refuse a default budget that cannot certify what is certified by default.

        Without an engine there are no answers: features are all that can be certified.
        """
        if self.policy.certify == "answer" and not isinstance(self.engine, NoEngine):
            self.policy.vote_plan(SmoothingOptions()).require_reachable()
        else:
            plan = self.policy.plan(SmoothingOptions())
            plan.require_reachable(1, self.smoother.loaded.chance_cosine(plan.sigma))

    async def stop(self) -> None:
        """Let vLLM finish the chats that it works on, then end everything."""
        await self._opened.aclose()


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
