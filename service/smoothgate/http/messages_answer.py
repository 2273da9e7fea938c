"""An answer in the form of Anthropic's Messages API: a whole message, or the events of a streamed one."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

from smoothgate.gate.answering import Event
from smoothgate.http import sse
from smoothgate.http.answer_blocks import Began, Block, CallBlock, Ended, Grew, Whole, grown
from smoothgate.http.translation import Translated

Json = dict[str, Any]

_REASONS = {"length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


class MessageForm:
    """Renders one answer.

    Args:
        identifier: of the request.
        model_name: of the one model.
    """

    def __init__(self, identifier: str, model_name: str) -> None:
        self._head: Json = {
            "id": f"msg_{identifier}",
            "type": "message",
            "role": "assistant",
            "model": model_name,
        }

    def whole(self, answer: Whole) -> Json:
        """The message."""
        body = {"content": [_block(block) for block in answer.blocks], "usage": _usage(answer.usage)}
        return self._head | body | _end(answer) | answer.certified

    async def events(self, events: AsyncGenerator[Event], translated: Translated) -> AsyncGenerator[str]:
        """The events of a streamed message. `message_delta`, which says why it ended, has the certificates.

        vLLM counts the tokens of the question at the end of a stream: `message_start` says 0.
        """
        nothing = {"stop_reason": None, "stop_sequence": None, "usage": _usage({})}
        yield _event("message_start", message=self._head | {"content": []} | nothing)
        with translated.named():
            async for step in grown(events):
                match step:
                    case Began(number, block):
                        begun = _block(block, empty=True)
                        yield _event("content_block_start", index=number, content_block=begun)
                    case Grew(number, CallBlock(), added):
                        delta = {"type": "input_json_delta", "partial_json": added}
                        yield _event("content_block_delta", index=number, delta=delta)
                    case Grew(number, _, added):
                        delta = {"type": "text_delta", "text": added}
                        yield _event("content_block_delta", index=number, delta=delta)
                    case Ended(number):
                        yield _event("content_block_stop", index=number)
                    case Whole():
                        usage = _usage(step.usage)
                        yield _event("message_delta", delta=_end(step), usage=usage, **step.certified)
                        yield _event("message_stop")


def _event(kind: str, **fields: Any) -> str:
    return sse.event({"type": kind, **fields}, kind)


def _block(block: Block, *, empty: bool = False) -> Json:
    if isinstance(block, CallBlock):
        arguments = {} if empty else _arguments(block.arguments)
        return {"type": "tool_use", "id": block.identifier, "name": block.name, "input": arguments}
    return {"type": "text", "text": "" if empty else block.text, "citations": None}


def _arguments(text: str) -> Any:
    """The arguments of a call; an answer that was cut off has only half of them."""
    try:
        return json.loads(text or "{}")
    except ValueError:
        return {}


def _end(answer: Whole) -> Json:
    reason = "stop_sequence" if answer.stop is not None else "end_turn"
    return {"stop_reason": _REASONS.get(answer.reason, reason), "stop_sequence": answer.stop}


def _usage(usage: Json) -> Json:
    """Tokens. Here, those that vLLM had in its cache are not among `input_tokens`."""
    asked = usage.get("prompt_tokens") or 0
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return {
        "input_tokens": asked - cached,
        "output_tokens": usage.get("completion_tokens") or 0,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
    }
