"""Prints what CHANGELOG.md says of a release: `python .ci/release-notes.py v0.1.0`.

Fails where the tag is not the version of the package, or the changelog has nothing of it.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def notes(tag: str, root: Path = ROOT) -> str:
    """The section of the release with this tag.

    Args:
        tag: as it was pushed.
        root: the folder of pyproject.toml and CHANGELOG.md.

    Raises:
        ValueError: the tag is not that of the package's version, or there is no such section.
    """
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    if tag != f"v{version}":
        raise ValueError(f"the tag is {tag}, the version in pyproject.toml {version}")
    found = re.search(
        rf"^## {re.escape(version)} \(\d{{4}}-\d\d-\d\d\)\n(.*?)(?=^## |\Z)",
        (root / "CHANGELOG.md").read_text(),
        re.DOTALL | re.MULTILINE,
    )
    if found is None or not found[1].strip():
        raise ValueError(f"CHANGELOG.md has no section `## {version} (YYYY-MM-DD)`")
    return found[1].strip()


if __name__ == "__main__":
    try:
        print(notes(sys.argv[1]))
    except ValueError as error:
        sys.exit(str(error))
