"""A body of `POST /v1/responses` (OpenAI's Responses API) as a turn of a chat."""

from __future__ import annotations

from typing import Any

from smoothgate.errors import MalformedRequest
from smoothgate.gate.accounts import Account
from smoothgate.gate.answering import Turn
from smoothgate.http.chat_builder import ChatBuilder, Part, image_part, text_part
from smoothgate.http.chat_fields import smoothing_of
from smoothgate.http.sse import RESPONSES
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

_NO_MEMORY = "Nothing is stored here: send the whole conversation as input."
_NOT_SERVED = {
    "background": "Answers are given at once, not in the background.",
    "context_management": "The context is not shortened here.",
    "conversation": _NO_MEMORY,
    "moderation": "Answers are not moderated here.",
    "previous_response_id": _NO_MEMORY,
    "prompt": "Prompts are not stored here: send the instructions and the input.",
    "store": "Answers are not stored here: leave store out, or send false.",
}
# What chat completions call them, and what this API does.
_OTHER_NAMES = {
    "logprobs": 'include: ["message.output_text.logprobs"]',
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "messages": "input",
    "modalities": "text",
    "n": "one answer each",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
}
#: Read here. What else a body has is vLLM's, or refused by name.
_READ = {
    "include",
    "input",
    "instructions",
    "max_output_tokens",
    "max_tool_calls",  # of built-in tools
    "model",
    "reasoning",
    "smoothing",
    "stream_options",
    "text",
    "tool_choice",
    "tools",
    "truncation",
    *_NOT_SERVED,
}
_LOGPROBS = "message.output_text.logprobs"
_ROLES = ("user", "assistant", "system", "developer")


def turn_of(body: Json, account: Account | None, identifier: str) -> Translated:
    """What a body asks for.

    Raises:
        MalformedRequest: a field does not have its form.
        Unacceptable: what is not served, by name: stored conversations, built-in tools, files.
    """
    refuse(body, _NOT_SERVED)
    other_name(body, _OTHER_NAMES)
    chat = ChatBuilder()
    if (instructions := body.get("instructions")) is not None:
        chat.say("system", a_string(instructions, "instructions"), "instructions")
    _read_input(body.get("input"), chat)
    parameters = {name: value for name, value in body.items() if name not in _READ}
    names = chat.names | {"messages": "input"}
    if (most := body.get("max_output_tokens")) is not None:
        parameters["max_completion_tokens"] = most
        names["max_completion_tokens"] = "max_output_tokens"
    if body.get("truncation") not in (None, "disabled"):
        raise unsupported("A conversation is not truncated here.", "truncation")
    _read_include(body.get("include"), parameters)
    _read_reasoning(body.get("reasoning"), parameters, names)
    _read_text(body.get("text"), parameters, names)
    _read_tools(body.get("tools"), body.get("tool_choice"), parameters)
    turn = Turn(
        route=RESPONSES,
        account=account,
        request_id=identifier,
        messages=chat.messages,
        model=body.get("model"),
        smoothing=smoothing_of(body),
        parameters=parameters,
    )
    return Translated(turn, names)


def _read_input(given: Any, chat: ChatBuilder) -> None:
    if isinstance(given, str):
        chat.say("user", given, "input")
        return
    if given is None:
        raise MalformedRequest("input is missing: a text, or a list of messages.", param="input")
    items = a_list(given, "input")
    for at, item in enumerate(items):
        _read_item(an_object(item, f"input.{at}"), f"input.{at}", chat)
    chat.finish()
    if not items:
        raise MalformedRequest("input must hold at least one message.", param="input")


def _read_item(item: Json, param: str, chat: ChatBuilder) -> None:
    kind = item.get("type", "message")
    match kind:
        case "message":
            role = item.get("role")
            if role not in _ROLES:
                raise MalformedRequest(f"role must be one of {', '.join(_ROLES)}.", param=f"{param}.role")
            # Templates know no developer. OpenAI's models take both for the same.
            role = "system" if role == "developer" else role
            chat.say(role, _content(item.get("content"), f"{param}.content"), param)
        case "function_call":
            identifier, name, arguments = (
                a_string(item.get(field), f"{param}.{field}") for field in ("call_id", "name", "arguments")
            )
            chat.call(identifier, name, arguments, param)
        case "function_call_output":
            identifier = a_string(item.get("call_id"), f"{param}.call_id")
            chat.result(identifier, _content(item.get("output"), f"{param}.output"), param)
        case "reasoning":
            # It comes back with the output of models elsewhere. Templates drop that of earlier turns.
            pass
        case _:
            raise unsupported(
                f"Input of type {kind} is not served: a conversation is made of message, function_call and "
                "function_call_output.",
                f"{param}.type",
            )


def _content(given: Any, param: str) -> str | list[Part]:
    if isinstance(given, str):
        return given
    return [
        (_part(an_object(part, f"{param}.{i}"), f"{param}.{i}"), f"{param}.{i}")
        for i, part in enumerate(a_list(given, param))
    ]


def _part(part: Json, param: str) -> Json:
    kind = part.get("type")
    match kind:
        case "input_text" | "output_text" | "text":
            return text_part(a_string(part.get("text"), f"{param}.text"))
        case "refusal":
            return text_part(a_string(part.get("refusal"), f"{param}.refusal"))
        case "input_image":
            if part.get("file_id") is not None:
                raise unsupported("Files are not stored here: send image_url.", f"{param}.file_id")
            return image_part(a_string(part.get("image_url"), f"{param}.image_url"))
        case _:
            raise unsupported(
                f"Content of type {kind} is not served. Text is sent as input_text, a picture as "
                '{"type": "input_image", "image_url": "data:image/png;base64,..."}.',
                f"{param}.type",
            )


def _read_include(given: Any, parameters: Json) -> None:
    for at, name in enumerate(a_list(given or [], "include")):
        if name != _LOGPROBS:
            raise unsupported(f"Only {_LOGPROBS} can be included.", f"include.{at}")
    if given or parameters.get("top_logprobs"):
        parameters["logprobs"] = True


def _read_reasoning(given: Any, parameters: Json, names: dict[str, str]) -> None:
    if given is None:
        return
    effort = an_object(given, "reasoning", {"effort"}).get("effort")
    if effort is not None:
        parameters["reasoning_effort"] = effort
        names["reasoning_effort"] = "reasoning.effort"


def _read_text(given: Any, parameters: Json, names: dict[str, str]) -> None:
    if given is None:
        return
    form = an_object(given, "text", {"format"}).get("format")
    if form is None or an_object(form, "text.format").get("type") == "text":
        return
    names["response_format"] = "text.format"
    parameters["response_format"] = form
    if form.get("type") == "json_schema":
        schema = {name: value for name, value in form.items() if name != "type"}
        parameters["response_format"] = {"type": "json_schema", "json_schema": schema}


def _read_tools(tools: Any, choice: Any, parameters: Json) -> None:
    if tools:
        parameters["tools"] = [_tool(tool, f"tools.{at}") for at, tool in enumerate(a_list(tools, "tools"))]
    if isinstance(choice, dict):
        if choice.get("type") != "function":
            raise unsupported("A tool_choice of this type is not served: only function.", "tool_choice.type")
        name = a_string(choice.get("name"), "tool_choice.name")
        choice = {"type": "function", "function": {"name": name}}
    # Without tools there is nothing to choose, and vLLM refuses a choice.
    if choice is not None and (tools or choice not in ("auto", "none")):
        parameters["tool_choice"] = choice


def _tool(given: Any, param: str) -> Json:
    tool = an_object(given, param)
    if tool.get("type") != "function":
        raise unsupported(
            f"A tool of type {tool.get('type')} is not served: only function, which the client calls.",
            f"{param}.type",
        )
    named = ("name", "description", "parameters", "strict")
    return {"type": "function", "function": {k: tool[k] for k in named if tool.get(k) is not None}}
