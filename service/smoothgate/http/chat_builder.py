"""Makes the messages of a chat, and remembers which field of the client's request each part came from."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
#: A part of a message, and the field that it came in.
Part = tuple[Json, str]


class ChatBuilder:
    """Takes messages in order.

    Attributes:
        messages: in OpenAI's form.
        names: the field that the client sent, by field of the chat (`messages.0.content.1`).
    """

    def __init__(self) -> None:
        self.messages: list[Json] = []
        self.names: dict[str, str] = {}
        self._shown: list[Part] = []
        self._shown_in = ""

    def say(self, role: str, content: str | list[Part], param: str) -> None:
        """A message: text, or parts. Pictures of the tools' results before it stand in front of it."""
        if role == "user" and self._shown and not isinstance(content, str):
            content, self._shown = [*self._shown, *content], []
        self.finish()
        if isinstance(content, str):
            self._add({"role": role, "content": content}, param)
            return
        self._add({"role": role, "content": [part for part, _ in content]}, param)
        at = len(self.messages) - 1
        self.names |= {f"messages.{at}.content.{i}": name for i, (_, name) in enumerate(content)}

    def call(self, identifier: str, name: str, arguments: str, param: str) -> None:
        """A call of a tool, which the assistant's message before it goes on with, if there is one."""
        self.finish()
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self._add({"role": "assistant", "content": None}, param)
        called = {"id": identifier, "type": "function", "function": {"name": name, "arguments": arguments}}
        self.messages[-1].setdefault("tool_calls", []).append(called)

    def result(self, identifier: str, content: str | list[Part], param: str) -> None:
        """What a tool gave. Its pictures follow in a message of the user: templates know none of tools."""
        if not isinstance(content, str):
            pictures = [one for one in content if one[0]["type"] == "image_url"]
            self._shown += pictures
            self._shown_in = param
            content = "\n".join(part["text"] for part, _ in content if part["type"] == "text")
        self._add({"role": "tool", "tool_call_id": identifier, "content": content}, param)

    def finish(self) -> None:
        """Show the pictures of the tools' results that no message of the user has shown yet."""
        if self._shown:
            shown, self._shown = self._shown, []
            self.say("user", shown, self._shown_in)

    def _add(self, message: Json, param: str) -> None:
        self.messages.append(message)
        self.names[f"messages.{len(self.messages) - 1}"] = param


def text_part(text: str) -> Json:
    """A part of text."""
    return {"type": "text", "text": text}


def image_part(url: str) -> Json:
    """A picture: a data URI, or an address."""
    return {"type": "image_url", "image_url": {"url": url}}
