"""vLLM as the engine: our own child or a deployment elsewhere, reached by one client."""

from typing import Protocol

from smoothgate.engine.engine_client import ChatStream, EngineClient
from smoothgate.engine.local_engine import LocalEngine
from smoothgate.engine.placeholders import neutralise, neutralise_messages
from smoothgate.engine.remote_engine import RemoteEngine
from smoothgate.engine.status import EngineState, EngineStatus
from smoothgate.engine.visual_token_parts import image_parts

__all__ = [
    "ChatStream",
    "Engine",
    "EngineClient",
    "EngineState",
    "EngineStatus",
    "LocalEngine",
    "RemoteEngine",
    "image_parts",
    "neutralise",
    "neutralise_messages",
]


class Engine(Protocol):
    """What the service needs of an engine, wherever it runs."""

    client: EngineClient

    @property
    def status(self) -> EngineStatus:
        """The state as it is now."""

    async def start(self) -> None:
        """Begin; returns at once."""

    async def wait_ready(self) -> None:
        """Wait until the engine answers."""

    async def stop(self) -> None:
        """End what `start` began."""
