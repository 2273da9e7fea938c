"""What counts as the same answer: the canonical form of a text, and what vLLM is asked for.

A closed set of choices, a field of a JSON answer, or the whole text (docs/answers.md).
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from smoothgate.errors import Unacceptable
from smoothgate.schemas import AnswerOptions

Json = dict[str, Any]
Kind = Literal["choices", "field", "text"]

# With these, an answer is no single text.
_NOT_WITH_VOTES = ("logprobs", "top_logprobs", "prompt_logprobs", "tools", "tool_choice", "use_beam_search")


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """How answers are compared.

    Attributes:
        kind: of the form.
        choices: the closed set, as vLLM writes them; empty: there is none.
        pointer: a JSON pointer (RFC 6901) to the field that is compared; None: the whole answer.
        prefix: text that every answer is made to begin with; empty: none.
    """

    kind: Kind
    choices: tuple[str, ...] = ()
    pointer: str | None = None
    prefix: str = ""

    def canonical(self, text: str) -> str | None:
        """The canonical form of an answer; None: it is not of this form."""
        if self.pointer is not None:
            return _field(text, self.pointer)
        folded = fold(text)
        if self.choices and folded not in map(fold, self.choices):
            return None
        return folded

    def apply(self, body: Json) -> Json:
        """vLLM's request for one whole answer of this form."""
        asked = {name: value for name, value in body.items() if name not in ("stream", "stream_options")}
        if self.kind == "choices" and "response_format" not in asked:
            asked["structured_outputs"] = {"choice": list(self.choices)}
        if self.prefix:
            asked["messages"] = [*body["messages"], {"role": "assistant", "content": self.prefix}]
            asked |= {"add_generation_prompt": False, "continue_final_message": True}
        return asked


def answer_form(options: AnswerOptions, parameters: Json, messages: Any) -> AnswerForm:
    """The form that a request asks for.

    Args:
        options: `smoothing.answer`.
        parameters: of vLLM; structured outputs and response formats among them are taken over.
        messages: of the chat.

    Raises:
        Unacceptable: choices that are empty or equal, that contradict another field, a field that the schema
            does not have, or parameters with which an answer is no single text.
    """
    _require_one_text(parameters)
    if options.prefix and isinstance(messages, list) and messages and _role(messages[-1]) == "assistant":
        raise Unacceptable(
            "smoothing.answer.prefix begins the answer; this chat ends with a message of the assistant.",
            param="smoothing.answer.prefix",
        )
    given = _choices_of(parameters)
    if given is not None:
        own = "response_format" if _schema_of(parameters) is not None else "structured_outputs"
        _require_different(given, own)
    choices = options.choices
    if options.field is not None:
        if choices is not None:
            raise Unacceptable(
                "smoothing.answer takes choices or field, not both.", param="smoothing.answer.field"
            )
        _require_field(options.field, parameters)
        return AnswerForm("field", pointer=options.field, prefix=options.prefix)
    if choices is not None:
        _require_different(choices, "smoothing.answer.choices")
        if given is not None and sorted(map(fold, given)) != sorted(map(fold, choices)):
            raise Unacceptable(
                "smoothing.answer.choices are not those of structured_outputs or response_format.",
                param="smoothing.answer.choices",
            )
        if given is None and parameters.get("response_format") is not None:
            raise Unacceptable(
                "smoothing.answer.choices contradict a response_format that allows other answers.",
                param="smoothing.answer.choices",
            )
        if given is None and parameters.get("structured_outputs") is not None:
            raise Unacceptable(
                "smoothing.answer.choices contradict structured_outputs that allow other answers.",
                param="smoothing.answer.choices",
            )
    chosen = choices if given is None else given
    if chosen is None:
        return AnswerForm("text", prefix=options.prefix)
    return AnswerForm("choices", tuple(chosen), prefix=options.prefix)


def fold(text: str) -> str:
    """A text without what does not count: Unicode-normalised (NFKC), white space and case folded."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _require_one_text(parameters: Json) -> None:
    if parameters.get("n") not in (None, 1):
        raise Unacceptable("A certified answer is one: n must be 1.", param="n", code="unsupported")
    for name in _NOT_WITH_VOTES:
        if parameters.get(name) not in (None, False, 0, [], "none"):
            raise Unacceptable(
                f"{name} cannot be had with a certified answer.", param=name, code="unsupported"
            )


def _require_different(choices: Sequence[str], param: str) -> None:
    folded = [fold(choice) for choice in choices]
    if "" in folded:
        raise Unacceptable("A choice must not be empty.", param=param)
    if len(set(folded)) < len(folded):
        raise Unacceptable("Two choices are the same once case and white space are folded.", param=param)
    if len(folded) < 2:
        raise Unacceptable("There must be at least two choices.", param=param)


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, dict) else None


def _choices_of(parameters: Json) -> list[str] | None:
    """The closed set that a request names by itself: `structured_outputs.choice`, or a JSON schema that is an
    enumeration or a boolean.
    """
    structured = parameters.get("structured_outputs")
    if isinstance(structured, dict) and isinstance(structured.get("choice"), list):
        return [str(choice) for choice in structured["choice"]]
    schema = _schema_of(parameters)
    if schema is None:
        return None
    if schema.get("type") == "boolean":
        return ["true", "false"]
    if isinstance(schema.get("enum"), list):
        return [json.dumps(value, ensure_ascii=False) for value in schema["enum"]]
    return None


def _schema_of(parameters: Json) -> Json | None:
    given = parameters.get("response_format")
    if not isinstance(given, dict) or given.get("type") != "json_schema":
        return None
    named = given.get("json_schema")
    schema = named.get("schema") if isinstance(named, dict) else None
    return schema if isinstance(schema, dict) else None


def _require_field(pointer: str, parameters: Json) -> None:
    schema = _schema_of(parameters)
    if schema is None:
        raise Unacceptable(
            "smoothing.answer.field needs a response_format of type json_schema.",
            param="smoothing.answer.field",
        )
    for name in _steps(pointer):
        properties = schema.get("properties") if isinstance(schema, dict) else None
        if not isinstance(properties, dict) or not isinstance(properties.get(name), dict):
            raise Unacceptable(
                f"The schema has no field {pointer}.", param="smoothing.answer.field", code="unknown_field"
            )
        schema = properties[name]


def _steps(pointer: str) -> list[str]:
    if not pointer.startswith("/"):
        raise Unacceptable(
            "smoothing.answer.field is a JSON pointer, for example /label.", param="smoothing.answer.field"
        )
    return [step.replace("~1", "/").replace("~0", "~") for step in pointer[1:].split("/")]


def _field(text: str, pointer: str) -> str | None:
    try:
        value = json.loads(text)
        for step in _steps(pointer):
            value = value[step]
        return json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False)
    except (ValueError, KeyError, TypeError, IndexError):
        return None
