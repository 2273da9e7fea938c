"""Which optional dependencies are installed, and the parts of the lab that are found through entry points.

`pyproject.toml` names the extras and the entry points. Nothing here imports what it looks for, except
`load_plugin`.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, requires
from typing import Any

from packaging.requirements import Requirement

from smoothgate.errors import SmoothgateError

_PROJECT = "smoothgate"


class MissingExtra(SmoothgateError):
    """An optional dependency is not installed. The message names the extra that brings it.

    Args:
        extra: name of the extra.
        what: the part of Smoothgate that needs it, as the subject of the message.
    """

    default_code = "missing_extra"

    def __init__(self, extra: str, what: str) -> None:
        super().__init__(f"{what} needs the extra `{extra}`: pip install '{_PROJECT}[{extra}]'")


def missing(extra: str) -> list[str]:
    """Names of the distributions that the extra asks for and that are not installed, sorted.

    The answer is empty where Smoothgate itself runs from a folder of sources that was never installed:
    nothing is known about its extras there.
    """
    try:
        lines = requires(_PROJECT) or []
    except PackageNotFoundError:
        return []
    absent: set[str] = set()
    for requirement in map(Requirement, lines):
        marker = requirement.marker
        if marker is None or marker.evaluate({"extra": ""}) or not marker.evaluate({"extra": extra}):
            continue
        if requirement.name == _PROJECT:
            absent.update(*map(missing, requirement.extras))
        elif not _is_installed(requirement.name):
            absent.add(requirement.name)
    return sorted(absent)


def require(extra: str, what: str) -> None:
    """Check that an extra is installed.

    Raises:
        MissingExtra: it is not.
    """
    if missing(extra):
        raise MissingExtra(extra, what)


def load_plugin(entry: EntryPoint, what: str) -> Any:
    """Import a part of the lab.

    Raises:
        MissingExtra: the lab or one of its dependencies is not installed.
    """
    require("lab", what)
    try:
        return entry.load()
    except ModuleNotFoundError as error:
        raise MissingExtra("lab", what) from error


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
