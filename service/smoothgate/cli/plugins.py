"""Commands of other packages, found through the entry points `smoothgate.commands`.

The name of an entry point is the command's, behind a dot where it belongs to a group: `psm.train`. What it
names is a `typer.Typer` (a group) or a function (a command).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points

import typer
from rich.markup import escape

from smoothgate.cli.common import Lists, failures
from smoothgate.extras import MissingExtra, load_plugin

GROUP = "smoothgate.commands"


def installed() -> list[EntryPoint]:
    """Every plugin, sorted by name."""
    return sorted(entry_points(group=GROUP), key=lambda entry: entry.name)


def add_plugins(groups: Mapping[str, typer.Typer]) -> None:
    """Add every plugin to its group; the key of the commands at the top is empty.

    A command that cannot be loaded is still listed. Running it says which extra it needs.
    """
    for entry in installed():
        parent, _, name = entry.name.rpartition(".")
        try:
            plugin = load_plugin(entry, f"`smoothgate {entry.name.replace('.', ' ')}`")
        except MissingExtra as error:
            _add_placeholder(groups[parent], name, error)
            continue
        if isinstance(plugin, typer.Typer):
            groups[parent].add_typer(plugin, name=name)
        else:
            groups[parent].command(name, cls=Lists)(plugin)


def _add_placeholder(group: typer.Typer, name: str, error: MissingExtra) -> None:
    settings = {"allow_extra_args": True, "ignore_unknown_options": True}

    @group.command(name, help=escape(error.message), context_settings=settings)
    def placeholder() -> None:
        with failures():
            raise error
