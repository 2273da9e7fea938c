"""Files and installed distributions put elsewhere without copying them, where the file system allows that."""

import os
import shutil
from importlib.metadata import Distribution
from pathlib import Path


def link(source: str | Path, target: str | Path) -> None:
    """A hard link in the place of whatever is there, or a copy on another file system."""
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def link_distribution(installed: Distribution, site: Path) -> None:
    """The files of a distribution in another environment's site-packages; its programs are left out."""
    for file in installed.files or ():
        source = Path(str(installed.locate_file(file)))
        if ".." not in file.parts and source.is_file():
            link(source, site / file)
