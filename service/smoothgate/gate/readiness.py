"""Whether the parts are up: vLLM, the encoder, the sampler."""

from __future__ import annotations

from smoothgate.engine import Engine, EngineState
from smoothgate.errors import NotReady
from smoothgate.gate.supervised_smoother import SupervisedSmoother
from smoothgate.sampling.smoother import Smoother

_RETRY_SECONDS = 5


class Readiness:
    """Asks the parts for their state.

    Args:
        engine: vLLM.
        smoother: encoder and sampler.
    """

    def __init__(self, engine: Engine, smoother: SupervisedSmoother) -> None:
        self._engine = engine
        self._smoother = smoother

    def problems(self) -> dict[str, str]:
        """What keeps this gate from being sent requests, by part. Other gates may share its engine."""
        problem = self._engine.readiness_problem
        engine = {} if problem is None else {"engine": problem}
        return engine | self._smoother.problems()

    def beyond_repair(self) -> dict[str, str]:
        """The state of each part that only a new process can help."""
        return self._smoother.beyond_repair()

    def require_all(self) -> Smoother:
        """The smoother, where all parts are up. A canary that failed keeps nobody from asking.

        Raises:
            NoLanguageModel: the service has no engine by the operator's choice.
            NotReady: naming the parts that are not.
        """
        self._engine.require_existing()
        status = self._engine.status
        engine = {} if status.state is EngineState.READY else {"engine": status.unsafe or status.state.value}
        return self._require(engine | self._smoother.problems())

    def require_smoother(self) -> Smoother:
        """The smoother, where encoder and sampler are up.

        Raises:
            NotReady: naming the parts that are not.
        """
        return self._require(self._smoother.problems())

    def _require(self, problems: dict[str, str]) -> Smoother:
        if problems:
            listing = ", ".join(f"{part} {state}" for part, state in problems.items())
            raise NotReady(f"The service is not ready: {listing}.", retry_after=_RETRY_SECONDS)
        return self._smoother.loaded
