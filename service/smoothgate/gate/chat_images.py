"""The images in a chat: where they are, what replaces them, and which other kinds of content are refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from smoothgate.engine.placeholders import TEXT_KEYS
from smoothgate.errors import MalformedRequest, Unacceptable

Message = dict[str, Any]

_REFUSED = {
    "image_embeds": "Embeddings cannot be sent by a client: they would go around the smoothing.",
    "prompt_embeds": "Embeddings cannot be sent by a client: they would go around the smoothing.",
    "input_audio": "Audio is not served.",
    "audio_url": "Audio is not served.",
    "audio_embeds": "Audio is not served.",
    "video_url": "Video is not served.",
    "video_embeds": "Video is not served.",
}
_PICTURE = '{"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}}'
#: How pictures are sent to chat completions, and to OpenAI's newer API.
_IMAGES = frozenset({"image_url", "input_image"})
# vLLM takes a part that has a `uuid` for the medium that it holds, whatever its type says.
_NEVER_IN_TEXT = ("uuid", "image_url", "image_pil", *_REFUSED)


@dataclass(frozen=True, slots=True)
class ImageSlot:
    """The place of an image in a chat, and where the image comes from.

    Attributes:
        message, part: the place: `messages[message]["content"][part]`.
        source: a URI, or an uploaded file.
        param: the request field that the image came in, for errors.
    """

    message: int
    part: int
    source: str | bytes
    param: str


def find_images(messages: Any, field: str = "messages") -> list[ImageSlot]:
    """The image parts of a chat, in order; `field` is what errors call the list.

    Raises:
        MalformedRequest: not a list of messages, or a part that is not one.
        Unacceptable: embeddings, audio, video, or a kind of part that is not known.
    """
    if not isinstance(messages, list) or not messages:
        raise MalformedRequest(f"{field} must be a list with at least one message.", param=field)
    slots = []
    for at, message in enumerate(messages):
        if not isinstance(message, dict):
            raise MalformedRequest("A message must be an object.", param=f"{field}.{at}")
        content = message.get("content")
        if content is None or isinstance(content, str):
            continue
        if not isinstance(content, list):
            raise MalformedRequest(
                "content must be a string or a list of parts.", param=f"{field}.{at}.content"
            )
        for number, part in enumerate(content):
            param = f"{field}.{at}.content.{number}"
            uri = _image_uri(part, param)
            if uri is not None:
                slots.append(ImageSlot(at, number, uri, param))
    return slots


def _image_uri(part: Any, param: str) -> str | None:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str):
        raise MalformedRequest("A content part must be an object with a type.", param=param)
    if kind in TEXT_KEYS:
        key = TEXT_KEYS[kind]
        if not isinstance(part.get(key), str):
            raise MalformedRequest(f"A part of type {kind} must hold a string {key}.", param=f"{param}.{key}")
        for other in _NEVER_IN_TEXT:
            if part.get(other) is not None:
                raise Unacceptable(
                    f"A part of type {kind} cannot hold {other}.",
                    param=f"{param}.{other}",
                    code="unsupported_content",
                )
        return None
    if kind not in _IMAGES:
        reason = _REFUSED.get(
            kind, f"Content of type {kind} is not served. A picture is sent as {_PICTURE}, text as type text."
        )
        raise Unacceptable(reason, param=param, code="unsupported_content")
    url = part.get("image_url")
    if isinstance(url, dict):
        url = url.get("url")
    if not isinstance(url, str):
        raise MalformedRequest(
            f"image_url must hold a url. A picture is sent as {_PICTURE}.", param=f"{param}.image_url"
        )
    return url


def attached_images(
    messages: Sequence[Message], sources: Sequence[str | bytes]
) -> tuple[list[Message], list[ImageSlot]]:
    """Messages with places for further images in front of the parts of the last one, and those places."""
    *before, last = messages
    places: list[Message] = [{"type": "image_url"} for _ in sources]
    slots = [ImageSlot(len(before), i, source, f"images.{i}") for i, source in enumerate(sources)]
    return [*before, last | {"content": [*places, *last["content"]]}], slots


def with_images_replaced(
    messages: Sequence[Message], slots: Sequence[ImageSlot], parts: Sequence[Sequence[Message]]
) -> list[Message]:
    """The messages with these parts in the place of each image. Those given stay as they are."""
    touched = {slot.message for slot in slots}
    replaced = [
        message | {"content": [*message["content"]]} if at in touched else message
        for at, message in enumerate(messages)
    ]
    # From the last one on, since the places after an image move.
    for slot, several in reversed(list(zip(slots, parts, strict=True))):
        replaced[slot.message]["content"][slot.part : slot.part + 1] = several
    return replaced
