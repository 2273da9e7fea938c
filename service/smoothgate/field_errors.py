"""What pydantic says about a value, in plain English: the field, what it may be, and what was given.

vLLM checks its fields with pydantic too, so its refusals read like our own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_MAY_BE = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "an object",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than": "greater than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number of fewer digits",
    "int_type": "a whole number",
    "iterable_type": "a list",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "list_type": "a list",
    "literal_error": "{expected}",
    "model_attributes_type": "an object",
    "model_type": "an object",
    "string_too_short": "text of {min_length} or more characters that are not white space",
    "string_type": "text",
    "string_unicode": "text of whole characters, without halves of surrogate pairs",
    "too_long": "a list of {max_length} or fewer items",
    "too_short": "a list of {min_length} or more items",
}
# The branches of vLLM's unions, which are no fields.
_BRANCH = re.compile(r"[A-Z]\w*Param")
_MOST_SHOWN = 40


def as_json(value: Any) -> str | None:
    """A value as the client wrote it, cut where it is long; None for a list or an object."""
    if isinstance(value, list | dict):
        return None
    text = json.dumps(
        value[: _MOST_SHOWN + 1] if isinstance(value, str) else value, ensure_ascii=False, default=str
    )
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


def explained(
    errors: Sequence[Mapping[str, Any]],
    *,
    prefix: str = "",
    fields: Callable[[Sequence[str]], Sequence[str]] = lambda path: (),
    shown: Callable[[Any], str | None] = as_json,
) -> tuple[str | None, str]:
    """The field at fault in dotted form (None: the whole body), and a sentence about it.

    Args:
        errors: of a pydantic `ValidationError`; at least one. The first field among them is explained.
        prefix: the field that was validated, where it is not the body.
        fields: the fields of the object at a path, for where one is not among them.
        shown: what was given as text, or None where it is not shown.
    """
    first = errors[0]
    path = _path(first)
    param = ".".join([*([prefix] if prefix else []), *path]) or None
    if first["type"] == "missing":
        return param, f"{param} is missing."
    if first["type"] == "extra_forbidden":
        known = fields(path[:-1])
        return param, f"{param} is not a field here." + (
            f" The fields are {', '.join(known)}." if known else ""
        )
    options = dict.fromkeys(_option(error) for error in errors if _path(error) == path)
    given = shown(first.get("input"))
    return param, f"{param or 'The body'} must be {' or '.join(options)}" + (
        f", not {given}." if given else "."
    )


def _path(error: Mapping[str, Any]) -> list[str]:
    path = [str(part) for part in error["loc"] if not _BRANCH.fullmatch(str(part))]
    return path[1:] if path[:1] in (["body"], ["query"]) else path


def _option(error: Mapping[str, Any]) -> str:
    template = _MAY_BE.get(error["type"])
    if template is None:
        return str(error["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    return template.format(**error.get("ctx", {}))
