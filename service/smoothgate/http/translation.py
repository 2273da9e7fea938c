"""A request of another API as a turn of a chat, and the way back for the errors that name its fields."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from smoothgate.errors import MalformedRequest, SmoothgateError, Unacceptable
from smoothgate.gate.answering import Turn

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Translated:
    """A turn, and the names that its fields had.

    Attributes:
        turn: what is asked.
        names: by field of the turn (`messages.0.content.1`, `max_tokens`), the field that the client sent.
    """

    turn: Turn
    names: Mapping[str, str]

    @contextmanager
    def named(self) -> Iterator[None]:
        """Make errors inside name the fields that the client sent."""
        with named(self.names):
            yield


@contextmanager
def named(names: Mapping[str, str]) -> Iterator[None]:
    """Make errors inside name the fields that the client sent; `names` as of `Translated`."""
    try:
        yield
    except SmoothgateError as error:
        if error.param is not None:
            _rename(error, error.param, names)
        raise


def _rename(error: SmoothgateError, param: str, names: Mapping[str, str]) -> None:
    known, rest = param, ""
    while known not in names:
        if not known:
            return
        known, _, part = known.rpartition(".")
        rest = f".{part}{rest}"
    error.param = names[known] + rest
    error.message = re.sub(rf"(?<![\w.]){re.escape(known)}(?!\w)", names[known], error.message)


def refuse(body: Json, reasons: Mapping[str, str]) -> None:
    """Refuse by name what is not served.

    Raises:
        Unacceptable: code `unsupported`: the body holds one of these fields, and it is not empty.
    """
    for name, reason in reasons.items():
        if body.get(name):
            raise unsupported(reason, name)


def unsupported(reason: str, param: str) -> Unacceptable:
    """What is said of a field that is known and not served."""
    return Unacceptable(reason, param=param, code="unsupported")


def other_name(body: Json, names: Mapping[str, str]) -> None:
    """Refuse fields of chat completions that have another name here.

    Raises:
        Unacceptable: code `unknown_field`.
    """
    for chats, here in names.items():
        if body.get(chats) is not None:
            raise Unacceptable(
                f"{chats} is a field of /v1/chat/completions. Here it is {here}.",
                param=chats,
                code="unknown_field",
            )


def an_object(value: Any, param: str, only: Collection[str] | None = None) -> Json:
    """A value that must be an object.

    Args:
        value: as the client sent it.
        param: its field; empty: it is the body.
        only: the fields that it may have; None: any.

    Raises:
        MalformedRequest: it is none.
        Unacceptable: code `unknown_field`: another field that is not null.
    """
    if not isinstance(value, dict):
        raise MalformedRequest(f"{param} must be an object.", param=param)
    for name in value if only is not None else ():
        if name not in (only or ()) and value[name] is not None:
            where = f"{param}.{name}" if param else name
            raise Unacceptable(
                f"{where} is not a field that this service takes.", param=where, code="unknown_field"
            )
    return value


def a_list(value: Any, param: str) -> list[Any]:
    """A value that must be a list; raises MalformedRequest."""
    if not isinstance(value, list):
        raise MalformedRequest(f"{param} must be a list.", param=param)
    return value


def a_string(value: Any, param: str) -> str:
    """A value that must be a string; raises MalformedRequest."""
    if not isinstance(value, str):
        raise MalformedRequest(f"{param} must be a string.", param=param)
    return value
