"""The documents of the settings: `.env.example` and `docs/settings.md`, rendered from the classes."""

from __future__ import annotations

import shlex
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from smoothgate.settings import GROUPS, PREFIX

#: The settings that most operators look at. The documents show them first, and the others as advanced.
COMMON = (
    "host",
    "port",
    "accounts",
    "anonymous",
    "model",
    "served_model_name",
    "psm",
    "device",
    "dtype",
    "engine_url",
    "engine_api_key",
    "engine_args",
    "sigma",
    "n_select",
    "n_certify",
    "alpha",
    "policy",
    "policy_cosine",
    "policy_eps",
    "signing_key_file",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One setting, as text."""

    group: str
    name: str
    default: str
    values: str
    description: str

    @property
    def variable(self) -> str:
        """The environment variable."""
        return PREFIX + self.name.upper()


def rows() -> list[Row]:
    """Every setting, group by group."""
    return [
        Row(title, name, _default(field), _values(field), field.description or "")
        for title, group in GROUPS.items()
        for name, field in group.model_fields.items()
    ]


def env_example() -> str:
    """The content of `.env.example`: every variable, commented out, at its default."""
    lines = [
        "# Settings of Smoothgate. Copy this file to .env and uncomment what should differ from the default.",
        "# Made from service/smoothgate/settings.py: `smoothgate settings --format env`.",
    ]
    for title, section in _sections():
        lines += ["", f"# --- {title} ---"]
        for row in section:
            description = row.description.replace("`", "")
            lines += ["", f"# {description}", f"# ({row.values})", f"#{row.variable}={row.default}"]
    return "\n".join(lines) + "\n"


def markdown() -> str:
    """The content of `docs/settings.md`: a table of the common settings, then one for each group."""
    lines = [
        "# Settings",
        "",
        "Each setting is an environment variable, or a line in a file `.env` in the working directory. The",
        "environment wins. `smoothgate serve` has options for the first that one needs (`--host`, `--port`,",
        "`--model`, `--psm`, `--sigma`), and they win over both. An empty value counts as unset. A variable",
        "that begins with `SMOOTHGATE_` and is no setting is refused in `.env`. In the environment, it is",
        "named in the log. Sigma and eps are in the units of the encoder's input: pixels in [0, 1] after",
        "resize and crop.",
        "",
        "This page is made from `service/smoothgate/settings.py` by `smoothgate settings --format markdown`.",
    ]
    for title, section in _sections():
        lines += ["", f"## {title}", "", "| variable | default | values | meaning |", "|---|---|---|---|"]
        for row in section:
            default = f"`{row.default}`" if row.default else "(unset)"
            lines.append(f"| `{row.variable}` | {default} | {row.values} | {row.description} |")
    return "\n".join(lines) + "\n"


def _sections() -> Iterator[tuple[str, list[Row]]]:
    """Title and settings of each section: the common ones, then group by group the others."""
    table = rows()
    yield "Common settings", [row for row in table if row.name in COMMON]
    for title in GROUPS:
        section = [row for row in table if row.group == title and row.name not in COMMON]
        if section:
            yield f"Advanced: {title}", section


_KINDS: dict[Any, str] = {
    bool: "true or false",
    int: "integer",
    float: "number",
    str: "text",
    Path: "path",
    SecretStr: "secret text",
    tuple[float, ...]: "numbers, separated by commas",
    tuple[int, ...]: "integers, separated by commas",
    tuple[str, ...]: "words, quoted as in a shell",
}


def _values(field: FieldInfo) -> str:
    """What the setting accepts: its type and bounds, or its choices."""
    kind: Any = field.annotation
    if get_origin(kind) in (Union, types.UnionType):
        (kind,) = (arm for arm in get_args(kind) if arm is not type(None))
    if get_origin(kind) is Literal:
        return ", ".join(get_args(kind))
    bounds = []
    for bound in field.metadata:
        match bound:
            case annotated_types.Ge(limit):
                bounds.append(f"at least {limit}")
            case annotated_types.Gt(limit):
                bounds.append(f"above {limit}")
            case annotated_types.Le(limit):
                bounds.append(f"at most {limit}")
            case annotated_types.Lt(limit):
                bounds.append(f"below {limit}")
    return ", ".join([_KINDS[kind], *bounds])


def _default(field: FieldInfo) -> str:
    """The default as it would be written in an environment variable; empty where it is unset."""
    match field.default:
        case None:
            return ""
        case bool(flag):
            return str(flag).lower()
        case tuple(parts) if all(isinstance(part, float) for part in parts):
            return ",".join(map(str, parts))
        case tuple(words):
            return shlex.join(words)
        case float(number):
            return f"{number:g}"
        case value:
            return str(value)
