"""Which pictures a command is about: folders, patterns, and lists of paths."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from glob import glob, has_magic
from pathlib import Path

from smoothgate.errors import MalformedRequest, Unacceptable
from smoothgate.psm.picture_files import list_pictures

#: A list in place of a file: the standard input.
STDIN = "-"
_LIST = ".txt"


def listed(given: Iterable[str]) -> list[str]:
    """The paths of pictures, each once, in the order in which they are found.

    Args:
        given: folders (all pictures below them, sorted), patterns (`*`, `?`, `[`, `**`), text files with a
            path in each line (`.txt`, or `-` for the standard input), and single pictures.

    Raises:
        Unacceptable: code `no_pictures`: a folder or a pattern without pictures, or nothing at all.
        MalformedRequest: a list that cannot be read.
    """
    found = dict.fromkeys(path for one in given for path in _paths(one))
    if not found:
        raise Unacceptable("There are no pictures.", code="no_pictures")
    return list(found)


def _paths(one: str) -> Iterator[str]:
    path = Path(one)
    if one == STDIN or path.suffix == _LIST:
        yield from _lines(one)
    elif path.is_dir():
        yield from map(str, list_pictures(path))
    elif has_magic(one) and not path.exists():
        matches = sorted(match for match in glob(one, recursive=True) if Path(match).is_file())
        if not matches:
            raise Unacceptable(f"No file matches {one}.", code="no_pictures")
        yield from matches
    else:
        yield one


def _lines(name: str) -> list[str]:
    try:
        text = sys.stdin.read() if name == STDIN else Path(name).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise MalformedRequest(f"The list {name} cannot be read: {error}.") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
