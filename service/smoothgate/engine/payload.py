"""What goes to vLLM in a chat: visual tokens as embeddings, and text that cannot pass for them.

vLLM trusts embeddings: a wrong token count or NaN is answered with nonsense and status 200, and two lengths
in concurrent requests kill the engine core. So everything is checked here.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch

from smoothgate.errors import SmoothgateError
from smoothgate.vision import Prompt

# Unlike a space it is trimmed by no chat template, and unlike a letter it is not seen.
BREAK = "\u200b"

# The kinds of content part that vLLM takes for text, and the key that the text stands under.
TEXT_KEYS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
    "tool_reference": "name",
}


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
    if prompt.way == "image_embeds":
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


def neutralise(value: Any, placeholders: Collection[str]) -> Any:
    """Break every image placeholder in any string of a JSON value, keys included.

    A placeholder in a text (`<image>`) becomes the same token as the one that the chat template writes for an
    image: the visual tokens would go to the place that the text chose. An invisible character after its first
    one keeps the tokenizer from knowing it.

    Args:
        value: any JSON value; it is not changed.
        placeholders: the strings that the tokenizer turns into image tokens, two characters or longer each.
    """
    if isinstance(value, str):
        for placeholder in placeholders:
            value = value.replace(placeholder, placeholder[0] + BREAK + placeholder[1:])
        return value
    if isinstance(value, Mapping):
        return {neutralise(key, placeholders): neutralise(item, placeholders) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [neutralise(item, placeholders) for item in value]
    return value


def neutralise_messages(
    messages: Sequence[Mapping[str, Any]], placeholders: Collection[str]
) -> list[dict[str, Any]]:
    """`neutralise` for a chat, also against a placeholder cut up over several text parts.

    Chat templates write text parts one behind the other, some after moving the images out from between
    them. A part that would complete a placeholder begun in the text before it gets an invisible character
    in front. Call it before the image parts are put in.
    """
    cleaned: list[dict[str, Any]] = neutralise(messages, placeholders)
    longest = max(map(len, placeholders))
    before = ""
    for message in cleaned:
        for holder, key in _texts(message):
            text = holder[key]
            # Some templates strip the parts, so that a placeholder may close over white space.
            joined = before + text.strip()
            if any(placeholder in joined for placeholder in placeholders):
                holder[key] = BREAK + text
                joined = before + BREAK + text.strip()
            before = joined[1 - longest :]
    return cleaned


def _texts(message: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Where the texts of a message stand, in order: the container and the key of each."""
    content = message.get("content")
    if isinstance(content, str):
        yield message, "content"
    for at, part in enumerate(content if isinstance(content, list) else ()):
        if isinstance(part, str):
            yield content, at
        elif isinstance(part, dict):
            key = TEXT_KEYS.get(str(part.get("type")), "text")
            if isinstance(part.get(key), str):
                yield part, key
