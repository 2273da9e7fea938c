"""What a certificate is bound to beside its picture: digests of question and answer that anyone can make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from smoothgate.certify.canonical import json_digest
from smoothgate.certify.certificate import AnswerRecord, Question
from smoothgate.gate.chat_images import ImageSlot, with_images_replaced
from smoothgate.vision import DecodedImage

# They do not change the answer. The salt is a secret of the account.
_NOT_DECODING = {"messages", "model", "cache_salt", "stream", "stream_options"}


def question_of(
    body: Mapping[str, Any], slots: Sequence[ImageSlot], images: Sequence[DecodedImage]
) -> Question:
    """The record of what the language model is asked.

    Args:
        body: of vLLM's request, with an empty part in the place of each image.
        slots: these places.
        images: what belongs there.
    """
    parts = [[{"type": "image", "sha256": image.sha256}] for image in images]
    decoding = {name: value for name, value in body.items() if name not in _NOT_DECODING}
    return Question(
        messages_sha256=json_digest(with_images_replaced(body["messages"], slots, parts)),
        decoding_sha256=json_digest(decoding),
    )


def answer_of(texts: Sequence[str]) -> AnswerRecord:
    """The record of an answer, from the text of each choice."""
    return AnswerRecord(sha256=json_digest(list(texts)))
