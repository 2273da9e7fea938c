"""An answer in the form of OpenAI's Responses API: a whole response, or the events of a streamed one."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from itertools import count
from typing import Any

from smoothgate.gate.answering import Event
from smoothgate.http import sse
from smoothgate.http.answer_blocks import Began, Block, CallBlock, Ended, Grew, TextBlock, Whole, grown
from smoothgate.http.translation import Translated

Json = dict[str, Any]

# Why an answer is not complete, by vLLM's word for it.
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
# What a response repeats of its request, with what it holds where that names nothing.
_REPEATED: Json = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}


class ResponseForm:
    """Renders one answer.

    Args:
        body: of the request.
        identifier: of the request.
        model_name: of the one model.
    """

    def __init__(self, body: Json, identifier: str, model_name: str) -> None:
        self._identifier = identifier
        self._numbers = count()
        repeated = {
            name: default if body.get(name) is None else body[name] for name, default in _REPEATED.items()
        }
        self._head: Json = {
            "id": f"resp_{identifier}",
            "object": "response",
            "created_at": int(time.time()),
            "model": model_name,
            "background": False,
            "error": None,
            "previous_response_id": None,
            "store": False,
        } | repeated

    def whole(self, answer: Whole) -> Json:
        """The response."""
        reason = _INCOMPLETE.get(answer.reason)
        status = "completed" if reason is None else "incomplete"
        last = len(answer.blocks) - 1
        output = [
            self._item(number, block, status if number == last else "completed")
            for number, block in enumerate(answer.blocks)
        ]
        return (
            self._head
            | {
                "status": status,
                "incomplete_details": None if reason is None else {"reason": reason},
                "output": output,
                "usage": _usage(answer.usage),
            }
            | ({"completed_at": int(time.time())} if reason is None else {})
            | answer.certified
        )

    async def events(self, events: AsyncGenerator[Event], translated: Translated) -> AsyncGenerator[str]:
        """The events of a streamed response. The last one holds it whole, with the certificates."""
        begun: Json = {"status": "in_progress", "incomplete_details": None, "output": [], "usage": None}
        for kind in ("response.created", "response.in_progress"):
            yield self._event(kind, response=self._head | begun)
        with translated.named():
            async for step in grown(events):
                match step:
                    case Began(number, block):
                        item = self._item(number, block, "in_progress") | _empty(block)
                        yield self._event("response.output_item.added", output_index=number, item=item)
                        if isinstance(block, TextBlock):
                            yield self._part("added", number, block)
                    case Grew(number, CallBlock(), added):
                        kind = "response.function_call_arguments.delta"
                        yield self._event(kind, **self._place(number, "fc"), delta=added)
                    case Grew(number, TextBlock(), added, logprobs):
                        kind = "response.output_text.delta"
                        place = self._place(number, "msg") | {"content_index": 0}
                        yield self._event(kind, **place, delta=added, logprobs=logprobs)
                    case Ended(number, block):
                        for event in self._ends(number, block):
                            yield event
                    case Whole():
                        response = self.whole(step)
                        yield self._event(f"response.{response['status']}", response=response)

    def _ends(self, number: int, block: Block) -> list[str]:
        item = self._item(number, block, "completed")
        if isinstance(block, CallBlock):
            kind = "response.function_call_arguments.done"
            done = [
                self._event(kind, **self._place(number, "fc"), name=block.name, arguments=block.arguments)
            ]
        else:
            place = self._place(number, "msg") | {"content_index": 0}
            kind = "response.output_text.done"
            done = [
                self._event(kind, **place, text=block.text, logprobs=block.logprobs),
                self._part("done", number, block),
            ]
        return [*done, self._event("response.output_item.done", output_index=number, item=item)]

    def _part(self, state: str, number: int, block: TextBlock) -> str:
        place = self._place(number, "msg") | {"content_index": 0}
        return self._event(f"response.content_part.{state}", **place, part=_text(block))

    def _event(self, kind: str, **fields: Any) -> str:
        return sse.event({"type": kind, "sequence_number": next(self._numbers), **fields}, kind)

    def _place(self, number: int, prefix: str) -> Json:
        return {"item_id": f"{prefix}_{self._identifier}_{number}", "output_index": number}

    def _item(self, number: int, block: Block, status: str) -> Json:
        if isinstance(block, CallBlock):
            return {
                "id": f"fc_{self._identifier}_{number}",
                "type": "function_call",
                "status": status,
                "call_id": block.identifier,
                "name": block.name,
                "arguments": block.arguments,
            }
        return {
            "id": f"msg_{self._identifier}_{number}",
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": [_text(block)],
        }


def _empty(block: Block) -> Json:
    """What an item that begins has instead of its content."""
    return {"content": []} if isinstance(block, TextBlock) else {"arguments": ""}


def _text(block: TextBlock) -> Json:
    return {"type": "output_text", "text": block.text, "annotations": [], "logprobs": block.logprobs}


def _usage(usage: Json) -> Json:
    asked, answered = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    return {
        "input_tokens": asked,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": answered,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": usage.get("total_tokens") or asked + answered,
    }
