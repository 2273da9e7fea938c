"""The progress bar of all commands: the task, its progress, elapsed and remaining time."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def progress(*figures: str, console: Console | None = None, transient: bool = False) -> Progress:
    """A progress bar.

    Args:
        figures: templates of further columns, such as `{task.fields[rate]}`.
        console: where it is shown; None: on standard output.
        transient: whether it is taken away at the end. Without a terminal it is then never shown.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *map(TextColumn, figures),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=transient,
        disable=transient and console is not None and not console.is_terminal,
        speed_estimate_period=120,
    )
