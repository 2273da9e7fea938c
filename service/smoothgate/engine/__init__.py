"""vLLM as the engine: a child of the service or a deployment elsewhere, reached by one client."""

from smoothgate.engine.base_engine import Engine
from smoothgate.engine.engine_client import ChatStream, EngineClient, encoded
from smoothgate.engine.local_engine import LocalEngine, Supervision
from smoothgate.engine.media_check import MediaCheck
from smoothgate.engine.no_engine import NoEngine
from smoothgate.engine.placeholders import neutralise, neutralise_messages
from smoothgate.engine.remote_engine import RemoteEngine
from smoothgate.engine.status import EngineState, EngineStatus
from smoothgate.engine.visual_token_parts import image_parts
from smoothgate.engine.vllm_command import VLLMOptions

__all__ = [
    "ChatStream",
    "Engine",
    "EngineClient",
    "EngineState",
    "EngineStatus",
    "LocalEngine",
    "MediaCheck",
    "NoEngine",
    "RemoteEngine",
    "Supervision",
    "VLLMOptions",
    "encoded",
    "image_parts",
    "neutralise",
    "neutralise_messages",
]
