"""A body of `POST /v1/messages` (Anthropic's Messages API) as a turn of a chat."""

from __future__ import annotations

import json
from typing import Any

from smoothgate.errors import MalformedRequest
from smoothgate.gate.accounts import Account
from smoothgate.gate.answering import Turn
from smoothgate.http.chat_builder import ChatBuilder, Part, image_part, text_part
from smoothgate.http.chat_fields import smoothing_of
from smoothgate.http.error_responses import MESSAGES
from smoothgate.http.translation import (
    Translated,
    a_list,
    a_string,
    an_object,
    other_name,
    refuse,
    unsupported,
)

Json = dict[str, Any]

_NOT_SERVED = {
    "container": "There are no containers here.",
    "context_management": "The context is not shortened here.",
    "mcp_servers": "The service calls no tools: send tools that the client calls.",
    "prefill": "Begin the answer with a message of the assistant instead, or with smoothing.answer.prefix.",
}
# What chat completions call them, and what this API does.
_OTHER_NAMES = {
    "max_completion_tokens": "max_tokens",
    "n": "one answer each",
    "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
    "reasoning_effort": "output_config.effort",
    "response_format": "output_config.format",
    "stop": "stop_sequences",
}
# They change no answer here.
_LEFT_OUT = {"cache_control", "inference_geo", "metadata", "service_tier"}
_READ = {
    "max_tokens",
    "messages",
    "model",
    "output_config",
    "smoothing",
    "stop_sequences",
    "system",
    "thinking",
    "tool_choice",
    "tools",
    *_LEFT_OUT,
    *_NOT_SERVED,
}
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def turn_of(body: Json, account: Account | None, identifier: str) -> Translated:
    """What a body asks for.

    Raises:
        MalformedRequest: a field does not have its form.
        Unacceptable: what is not served, by name: built-in tools, documents, files, thinking.
    """
    refuse(body, _NOT_SERVED)
    other_name(body, _OTHER_NAMES)
    chat = ChatBuilder()
    if (system := body.get("system")) is not None:
        chat.say("system", _content(system, "system", ("text",)), "system")
    for at, message in enumerate(a_list(body.get("messages"), "messages")):
        _read_message(an_object(message, f"messages.{at}"), f"messages.{at}", chat)
    chat.finish()
    if not body["messages"]:
        raise MalformedRequest("messages must hold at least one message.", param="messages")
    parameters = {name: value for name, value in body.items() if name not in _READ}
    names = chat.names | {"messages": "messages"}
    if body.get("max_tokens") is None:
        raise MalformedRequest("max_tokens is missing: the longest answer, in tokens.", param="max_tokens")
    parameters["max_tokens"] = body["max_tokens"]
    if (stop := body.get("stop_sequences")) is not None:
        parameters["stop"] = a_list(stop, "stop_sequences")
        names["stop"] = "stop_sequences"
    thinking = body.get("thinking")
    if thinking is not None and an_object(thinking, "thinking").get("type") != "disabled":
        raise unsupported("Thinking is not shown here: leave thinking out.", "thinking")
    _read_output(body.get("output_config"), parameters, names)
    _read_tools(body.get("tools"), body.get("tool_choice"), parameters)
    turn = Turn(
        route=MESSAGES,
        account=account,
        request_id=identifier,
        messages=chat.messages,
        model=body.get("model"),
        smoothing=smoothing_of(body),
        parameters=parameters,
    )
    return Translated(turn, names)


def _read_message(message: Json, param: str, chat: ChatBuilder) -> None:
    role = message.get("role")
    if role not in ("user", "assistant"):
        raise MalformedRequest("role must be user or assistant; system is a field.", param=f"{param}.role")
    content = message.get("content")
    if isinstance(content, str):
        chat.say(role, content, param)
        return
    said: list[Part] = []
    calls: list[tuple[Json, str]] = []
    for at, given in enumerate(a_list(content, f"{param}.content")):
        where = f"{param}.content.{at}"
        block = an_object(given, where)
        match block.get("type"):
            case "tool_result" if role == "user":
                identifier = a_string(block.get("tool_use_id"), f"{where}.tool_use_id")
                result = _content(block.get("content") or "", f"{where}.content", ("text", "image"))
                chat.result(identifier, result, where)
            case "tool_use" if role == "assistant":
                calls.append((block, where))
            case _:
                said.append((_part(block, where, ("text", "image")), where))
    if said:
        chat.say(role, said, param)
    for block, where in calls:
        arguments = json.dumps(an_object(block.get("input"), f"{where}.input"), ensure_ascii=False)
        identifier, name = (a_string(block.get(field), f"{where}.{field}") for field in ("id", "name"))
        chat.call(identifier, name, arguments, where)


def _content(given: Any, param: str, kinds: tuple[str, ...]) -> str | list[Part]:
    if isinstance(given, str):
        return given
    return [
        (_part(an_object(block, f"{param}.{i}"), f"{param}.{i}", kinds), f"{param}.{i}")
        for i, block in enumerate(a_list(given, param))
    ]


def _part(block: Json, param: str, kinds: tuple[str, ...]) -> Json:
    kind = block.get("type")
    if kind not in kinds:
        raise unsupported(
            f"A block of type {kind} is not served here: only {' and '.join(kinds)}.", f"{param}.type"
        )
    if kind == "text":
        return text_part(a_string(block.get("text"), f"{param}.text"))
    source = an_object(block.get("source"), f"{param}.source")
    match source.get("type"):
        case "base64":
            kind = a_string(source.get("media_type"), f"{param}.source.media_type")
            data = a_string(source.get("data"), f"{param}.source.data")
            return image_part(f"data:{kind};base64,{data}")
        case "url":
            return image_part(a_string(source.get("url"), f"{param}.source.url"))
        case other:
            raise unsupported(
                f"A source of type {other} is not served: only base64 and url.", f"{param}.source.type"
            )


def _read_output(given: Any, parameters: Json, names: dict[str, str]) -> None:
    if given is None:
        return
    config = an_object(given, "output_config", {"effort", "format"})
    if (effort := config.get("effort")) is not None:
        parameters["reasoning_effort"] = effort
        names["reasoning_effort"] = "output_config.effort"
    if (form := config.get("format")) is not None:
        names["response_format"] = "output_config.format"
        schema = an_object(form, "output_config.format").get("schema")
        if form.get("type") != "json_schema":
            raise unsupported(
                "A format of this type is not served: only json_schema.", "output_config.format"
            )
        parameters["response_format"] = {
            "type": "json_schema",
            "json_schema": {
                "name": "answer",
                "schema": an_object(schema, "output_config.format.schema"),
                "strict": True,
            },
        }


def _read_tools(tools: Any, choice: Any, parameters: Json) -> None:
    if tools:
        parameters["tools"] = [_tool(tool, f"tools.{at}") for at, tool in enumerate(a_list(tools, "tools"))]
    if choice is None:
        return
    chosen = an_object(choice, "tool_choice")
    if chosen.get("disable_parallel_tool_use"):
        parameters["parallel_tool_calls"] = False
    kind = chosen.get("type")
    if kind == "tool":
        name = a_string(chosen.get("name"), "tool_choice.name")
        parameters["tool_choice"] = {"type": "function", "function": {"name": name}}
    elif not isinstance(kind, str) or kind not in _CHOICES:
        raise MalformedRequest("type must be auto, any, tool or none.", param="tool_choice.type")
    # Without tools there is nothing to choose, and vLLM refuses a choice.
    elif tools or kind == "any":
        parameters["tool_choice"] = _CHOICES[kind]


def _tool(given: Any, param: str) -> Json:
    tool = an_object(given, param)
    if tool.get("type") not in (None, "custom"):
        raise unsupported(
            f"A tool of type {tool['type']} is not served: only custom, which the client calls.",
            f"{param}.type",
        )
    function = {
        "name": a_string(tool.get("name"), f"{param}.name"),
        "parameters": an_object(tool.get("input_schema"), f"{param}.input_schema"),
    }
    for name in ("description", "strict"):
        if tool.get(name) is not None:
            function[name] = tool[name]
    return {"type": "function", "function": function}
