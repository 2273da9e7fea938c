"""Whether the parts that an answer needs are up: vLLM, the encoder, the sampler."""

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
        """The state of each part that is not up."""
        state = self._engine.status.state
        engine = {} if state is EngineState.READY else {"engine": state.value}
        return engine | self._smoother.problems()

    def beyond_repair(self) -> dict[str, str]:
        """The state of each part that only a new process can help."""
        return self._smoother.beyond_repair()

    def require_all(self) -> Smoother:
        """The smoother, where all parts are up. A canary that failed keeps nobody from asking.

        Raises:
            NotReady: naming the parts that are not.
        """
        return self._require(self.problems())

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
