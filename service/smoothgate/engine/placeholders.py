"""Image placeholders in a client's text, and how to keep the tokenizer from reading them as an image."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

# An invisible character that, unlike a space, no chat template trims.
BREAK = "\u200b"

# The types of content part that vLLM reads as text, and the key of the text.
TEXT_KEYS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
    "tool_reference": "name",
}


def neutralise(value: Any, placeholders: Collection[str]) -> Any:
    """Break every image placeholder in any string of a JSON value, keys included.

    A placeholder in a text (`<image>`) becomes the same token as the one that the chat template writes for an
    image, so the text would choose where the visual tokens go. An invisible character after the first
    character keeps the tokenizer from recognising the placeholder.

    Args:
        value: any JSON value. It is not changed.
        placeholders: the strings that the tokenizer turns into image tokens, of at least two characters each.
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
    """`neutralise` the messages of a chat, including placeholders that are split over several text parts.

    Chat templates write text parts one after the other. Some first move the images out from between them. A
    part that would complete a placeholder from the text before it gets an invisible character in front. Call
    this before the image parts are inserted.
    """
    cleaned: list[dict[str, Any]] = neutralise(messages, placeholders)
    longest = max(map(len, placeholders))
    before = ""
    for message in cleaned:
        for holder, key in _texts(message):
            text = holder[key]
            # Some templates strip the parts, so white space does not interrupt a placeholder.
            joined = before + text.strip()
            if any(placeholder in joined for placeholder in placeholders):
                holder[key] = BREAK + text
                joined = before + BREAK + text.strip()
            before = joined[1 - longest :]
    return cleaned


def _texts(message: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """The container and the key of each text of a message, in order."""
    content = message.get("content")
    if isinstance(content, str):
        yield message, "content"
    for index, part in enumerate(content if isinstance(content, list) else ()):
        if isinstance(part, str):
            yield content, index
        elif isinstance(part, dict):
            key = TEXT_KEYS.get(str(part.get("type")), "text")
            if isinstance(part.get(key), str):
                yield part, key
