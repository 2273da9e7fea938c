"""The content parts of a chat message that carry visual tokens to vLLM.

vLLM trusts embeddings. It answers a wrong number of tokens or NaN with nonsense and status 200, and two
lengths in concurrent requests kill the engine core. Therefore this module checks everything.
"""

from __future__ import annotations

from typing import Any

import torch

from smoothgate.engine.encoded_tensor import encoded
from smoothgate.errors import SmoothgateError
from smoothgate.vision import Prompt


def image_parts(
    tokens: torch.Tensor, prompt: Prompt, *, hidden_size: int, dtype: torch.dtype
) -> list[dict[str, Any]]:
    """The content parts of an OpenAI chat message that represent one image.

    Args:
        tokens: visual tokens as the language model consumes them, (T, D), of any floating type.
        prompt: the part of the prompt that represents the image.
        hidden_size: the D that the model expects.
        dtype: the engine's arithmetic. The tokens are sent in it.

    Raises:
        SmoothgateError: the tokens are not what the model expects. This is a fault of the service, not of the
            client.
    """
    if tokens.shape != (prompt.tokens, hidden_size):
        raise SmoothgateError(
            f"The visual tokens have shape {tuple(tokens.shape)}, but the model takes "
            f"{(prompt.tokens, hidden_size)}."
        )
    if not tokens.is_floating_point():
        raise SmoothgateError(
            f"The visual tokens have type {tokens.dtype}, but the model takes floating point."
        )
    tokens = tokens.detach().to("cpu", dtype)
    if not tokens.isfinite().all():
        raise SmoothgateError(f"Some visual tokens are not finite in {dtype}.")
    if prompt.part_type == "image_embeds":
        embeds: Any = encoded(tokens).decode()
        if prompt.grid is not None:
            grid = torch.tensor(prompt.grid)
            embeds = {"image_embeds": embeds, "image_grid_thw": encoded(grid).decode()}
        return [{"type": "image_embeds", "image_embeds": embeds}]
    parts: list[dict[str, Any]] = []
    first = 0
    for run in prompt.runs:
        if isinstance(run, str):
            parts.append({"type": "text", "text": run})
        else:
            parts.append({"type": "prompt_embeds", "data": encoded(tokens[first : first + run]).decode()})
            first += run
    return parts
