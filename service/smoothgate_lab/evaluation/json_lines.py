"""Results as lines of JSON, in a file that a run extends and another one may read meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def whole_lines(file: Path) -> list[dict[str, Any]]:
    """The lines of a file, without a last one that is incomplete. None if there is no file."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().split("\n")[:-1]]


@contextmanager
def appending(file: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that adds a line at once. An incomplete last line is cut off first."""
    if file.exists():
        text = file.read_text()
        file.write_text(text[: text.rfind("\n") + 1])
    with file.open("a") as out:

        def add(line: dict[str, Any]) -> None:
            out.write(json.dumps(line) + "\n")
            out.flush()

        yield add
