"""What is wrong with the settings of a start, in one line each: the variable or option, and its value."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Mapping
from typing import Any

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo

from smoothgate import field_errors
from smoothgate.settings import ENV_FILE, PREFIX, Settings


def sentences(error: ValidationError, options: Collection[str]) -> list[str]:
    """One line for each finding.

    Args:
        error: of `Settings`.
        options: names of the settings that were given as options of the command.
    """
    return [_sentence(finding, options) for finding in error.errors()]


def unknown_variables() -> list[str]:
    """One line for each variable of the environment that has our prefix and is no setting."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    given = sorted(name for name in os.environ if name.upper().startswith(PREFIX))
    return [
        f"{name} is no setting, and is ignored.{_hint(name)}" for name in given if name.upper() not in known
    ]


def _sentence(finding: Mapping[str, Any], options: Collection[str]) -> str:
    if not finding["loc"]:
        return f"{_reason(finding)}."
    name = str(finding["loc"][0])
    if finding["type"] == "extra_forbidden":
        variable = PREFIX + name.upper()
        return f"{variable} in {ENV_FILE} is no setting.{_hint(variable)}"
    field = Settings.model_fields[name]
    subject = f"--{name}" if name in options else PREFIX + name.upper()
    given = None if _is_secret(field) else finding["input"]
    if finding["type"] == "value_error":
        return f"{subject}={given}: {_reason(finding)}."
    if finding["type"] == "string_pattern_mismatch":
        return (
            f"{subject}={given} is not a value of this setting. {(field.description or '').replace('`', '')}"
        )
    return field_errors.explained(
        [{**finding, "loc": (subject,), "input": given}],
        shown=lambda value: None if value is None else str(value),
    )[1]


def _reason(finding: Mapping[str, Any]) -> str:
    return str(finding["msg"]).removeprefix("Value error, ")


def _is_secret(field: FieldInfo) -> bool:
    return SecretStr in (field.annotation, *getattr(field.annotation, "__args__", ()))


def _hint(variable: str) -> str:
    known = [PREFIX + name.upper() for name in Settings.model_fields]
    near = difflib.get_close_matches(variable.upper(), known, n=1, cutoff=0.8)
    return f" Did you mean {near[0]}?" if near else ""
