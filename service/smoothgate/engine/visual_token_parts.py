"""The content parts of a chat message that carry visual tokens to vLLM.

vLLM trusts embeddings: a wrong token count or NaN is answered with nonsense and status 200, and two lengths
in concurrent requests kill the engine core. So everything is checked here.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import torch

from smoothgate.errors import SmoothgateError
from smoothgate.vision import Prompt


def image_parts(
    tokens: torch.Tensor, prompt: Prompt, *, hidden_size: int, dtype: torch.dtype
) -> list[dict[str, Any]]:
    """The content parts of an OpenAI chat message that stand for one image.

    Args:
        tokens: visual tokens as the language model consumes them, (T, H), of any floating type.
        prompt: what the model expects for this image.
        hidden_size: the H that the model expects.
        dtype: the engine's arithmetic, in which the tokens go over the wire.

    Raises:
        SmoothgateError: the tokens are not what the model expects. A fault of ours, never of the client.
    """
    if tokens.shape != (prompt.tokens, hidden_size):
        raise SmoothgateError(
            f"Visual tokens of shape {tuple(tokens.shape)} where the model takes "
            f"{(prompt.tokens, hidden_size)}."
        )
    if not tokens.is_floating_point():
        raise SmoothgateError(f"Visual tokens of type {tokens.dtype} where the model takes floating point.")
    tokens = tokens.detach().to("cpu", dtype)
    if not tokens.isfinite().all():
        raise SmoothgateError(f"Visual tokens that are not all finite in {dtype}.")
    if prompt.part_type == "image_embeds":
        embeds: Any = _encoded(tokens)
        if prompt.grid is not None:
            grid = torch.tensor(prompt.grid)
            embeds = {"image_embeds": embeds, "image_grid_thw": _encoded(grid)}
        return [{"type": "image_embeds", "image_embeds": embeds}]
    parts: list[dict[str, Any]] = []
    at = 0
    for run in prompt.runs:
        if isinstance(run, str):
            parts.append({"type": "text", "text": run})
        else:
            parts.append({"type": "prompt_embeds", "data": _encoded(tokens[at : at + run])})
            at += run
    return parts


def _encoded(tensor: torch.Tensor) -> str:
    buffer = io.BytesIO()
    # A clone, since a view would be saved with all of its base.
    torch.save(tensor.clone(memory_format=torch.contiguous_format), buffer)
    return base64.b64encode(buffer.getvalue()).decode()
