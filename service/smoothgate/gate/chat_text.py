"""The text of a chat as vLLM may see it: no longer than allowed, without images and their placeholders."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from smoothgate.engine import encoded, neutralise, neutralise_messages
from smoothgate.errors import TooLarge
from smoothgate.gate.chat_images import ImageSlot, attached_images, find_images, with_images_replaced

Json = dict[str, Any]


def cleaned(
    messages: Any,
    field: str,
    attached: Collection[str | bytes],
    parameters: Json,
    placeholders: Collection[str],
    max_characters: int,
) -> tuple[list[Json], list[ImageSlot], Json]:
    """The messages of a chat with an empty part for each image, the images, and the parameters.

    It takes up to a second for what is long, so it has no place on the event loop.

    Args:
        messages: as the client sent them.
        field: the field that they came in, for errors.
        attached: further images, in front of the last message.
        parameters: whatever else vLLM gets.
        placeholders: what the tokenizer takes for an image.
        max_characters: of all texts together.

    Raises:
        MalformedRequest, Unacceptable: as `find_images`, or a value that JSON cannot represent.
        TooLarge: code `text_too_large`.
    """
    slots = find_images(messages, field)
    if attached:
        messages, further = attached_images(messages, list(attached))
        slots += further
    messages = with_images_replaced(messages, slots, [[{"type": "image_url"}]] * len(slots))
    if _characters(messages) + _characters(parameters) > max_characters:
        raise TooLarge(
            f"The text of the request is longer than {max_characters} characters.",
            param=field,
            code="text_too_large",
        )
    # What could not be sent in the end is refused now: a stream with pictures begins long before that.
    for name, value in {field: messages, **parameters}.items():
        encoded(value, name)
    return neutralise_messages(messages, placeholders), slots, neutralise(parameters, placeholders)


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(len(key) + _characters(item) for key, item in value.items())
    return sum(map(_characters, value)) if isinstance(value, list) else 0
