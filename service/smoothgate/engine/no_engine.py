"""No vLLM at all: the service certifies, and answers no chat."""

from __future__ import annotations

from smoothgate.engine.base_engine import Engine
from smoothgate.engine.engine_client import EngineClient
from smoothgate.errors import NoLanguageModel


class NoEngine(Engine):
    """Stands where an engine would. Its client refuses every request."""

    def __init__(self) -> None:
        super().__init__(lambda status: None)
        self.client = EngineClient(ready=lambda: False)

    @property
    def readiness_problem(self) -> None:
        """Nothing is missing."""

    def require_existing(self) -> None:
        """Refuse a chat.

        Raises:
            NoLanguageModel: always.
        """
        raise NoLanguageModel("This service has no language model: it certifies pictures, at /v1/certify.")

    async def start(self) -> None:
        """Nothing starts."""

    async def stop(self) -> None:
        """Close the client."""
        await self.client.aclose()
