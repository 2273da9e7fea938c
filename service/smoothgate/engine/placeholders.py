"""Image placeholders in a client's text, and how they are kept from passing for an image."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

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
