"""An answer as its blocks: its text, and each call of a tool. Responses and Messages are made of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from smoothgate.errors import EngineFailed
from smoothgate.gate.answering import Answer, AnswerCertified, Certificates, Event, Finished, Piece
from smoothgate.http.chat_fields import certified

Json = dict[str, Any]


@dataclass(slots=True)
class TextBlock:
    """Text. `logprobs` are vLLM's, one per token, where the client asked for them."""

    text: str = ""
    logprobs: list[Json] = field(default_factory=list)


@dataclass(slots=True)
class CallBlock:
    """A call of a tool: its id, the tool's name, and the arguments as JSON text."""

    identifier: str
    name: str
    arguments: str = ""


Block = TextBlock | CallBlock


@dataclass(frozen=True, slots=True)
class Began:
    """A block begins. It is empty."""

    number: int
    block: Block


@dataclass(frozen=True, slots=True)
class Grew:
    """A block has become longer by `added`."""

    number: int
    block: Block
    added: str
    logprobs: list[Json]


@dataclass(frozen=True, slots=True)
class Ended:
    """A block is whole."""

    number: int
    block: Block


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole answer.

    Attributes:
        blocks: in order.
        reason: why it ended: `stop`, `length`, `tool_calls` or `content_filter`.
        stop: the stop sequence that ended it, if one did.
        usage: tokens, as vLLM counts them.
        certified: the field with the certificates.
    """

    blocks: list[Block]
    reason: str
    stop: str | None
    usage: Json
    certified: Json


def whole_of(answer: Answer) -> Whole:
    """The blocks of an answer that came in one piece."""
    (choice, *_) = answer.completion["choices"]
    message = choice["message"]
    blocks: list[Block] = []
    if answer.text:
        blocks.append(TextBlock(answer.text, _logprobs(choice)))
    for call in message.get("tool_calls") or ():
        function = call["function"]
        blocks.append(CallBlock(call["id"], function["name"], function.get("arguments") or ""))
    return _ended(blocks, choice, answer.usage, certified(answer))


async def grown(events: AsyncGenerator[Event]) -> AsyncGenerator[Began | Grew | Ended | Whole]:
    """A streamed answer: each block as it begins, grows and ends, and last the whole.

    Raises:
        EngineFailed: vLLM goes on with a block that has ended.
    """
    blocks: list[Block] = []
    calls: dict[int, int] = {}
    last: Json = {}
    certificates: Json = {}
    async for event in events:
        match event:
            case Piece(chunk):
                for choice in chunk.get("choices") or ():
                    if choice.get("finish_reason"):
                        last = choice
                    delta = choice.get("delta") or {}
                    if text := delta.get("content"):
                        if not blocks or isinstance(blocks[-1], CallBlock):
                            for step in _begun(blocks, TextBlock()):
                                yield step
                        yield _longer(blocks, len(blocks) - 1, text, _logprobs(choice))
                    for call in delta.get("tool_calls") or ():
                        function = call.get("function") or {}
                        if call["index"] not in calls:
                            calls[call["index"]] = len(blocks)
                            for step in _begun(blocks, CallBlock(call["id"], function["name"])):
                                yield step
                        if arguments := function.get("arguments"):
                            yield _longer(blocks, calls[call["index"]], arguments, [])
            case Certificates() | AnswerCertified():
                certificates = certified(event)
            case Finished(usage):
                if blocks:
                    yield Ended(len(blocks) - 1, blocks[-1])
                yield _ended(blocks, last, usage, certificates)


def _begun(blocks: list[Block], block: Block) -> list[Began | Ended]:
    before: list[Began | Ended] = [Ended(len(blocks) - 1, blocks[-1])] if blocks else []
    blocks.append(block)
    return [*before, Began(len(blocks) - 1, block)]


def _longer(blocks: list[Block], number: int, added: str, logprobs: list[Json]) -> Grew:
    if number != len(blocks) - 1:
        raise EngineFailed("The engine went on with a tool call that had ended.")
    block = blocks[number]
    if isinstance(block, TextBlock):
        block.text += added
        block.logprobs += logprobs
    else:
        block.arguments += added
    return Grew(number, block, added, logprobs)


def _ended(blocks: list[Block], choice: Json, usage: Json, certificates: Json) -> Whole:
    reason = choice.get("finish_reason") or "stop"
    if reason == "stop" and any(isinstance(block, CallBlock) for block in blocks):
        reason = "tool_calls"
    stop = choice.get("stop_reason")
    return Whole(blocks, reason, stop if isinstance(stop, str) else None, usage, certificates)


def _logprobs(choice: Json) -> list[Json]:
    return list((choice.get("logprobs") or {}).get("content") or ())
