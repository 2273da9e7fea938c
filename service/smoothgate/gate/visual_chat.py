"""Visual tokens in chats: the parts that stand for an image, and a plain question about one."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from smoothgate.engine import EngineClient, image_parts
from smoothgate.engine.answers import read_completion
from smoothgate.off_loop import off_loop
from smoothgate.vision import VisionAdapter

Json = dict[str, Any]


async def visual_parts(adapter: VisionAdapter, tokens: Tensor, height: int, width: int) -> list[Json]:
    """The parts of a chat message that stand for one image.

    Args:
        adapter: of the model.
        tokens: (T, D), as the language model takes them.
        height, width: of the upright image, in pixels.

    Raises:
        SmoothgateError: the tokens are not what the model takes.
    """

    def parts() -> list[Json]:
        prompt = adapter.prompt(height, width)
        return image_parts(tokens, prompt, hidden_size=adapter.hidden_size, dtype=adapter.dtype)

    return await off_loop(parts)


class VisualQuestions:
    """Asks vLLM about visual tokens that no client sent, without any check of a request.

    Args:
        client: of vLLM.
        model_name: as vLLM knows the model.
    """

    def __init__(self, client: EngineClient, model_name: str) -> None:
        self._client = client
        self._model_name = model_name

    async def ask(self, question: str, parts: list[Json], *, max_tokens: int, request_id: str) -> str:
        """The most likely answer to a question about an image, as `visual_parts` gives it.

        Raises:
            NotReady, EngineFailed, EngineTimedOut: as their names say.
        """
        body: Json = {
            "model": self._model_name,
            "messages": [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}],
            "max_tokens": max_tokens,
            "temperature": 0,
        }
        return read_completion(await self._client.chat(body, request_id)).text
