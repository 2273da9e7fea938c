"""Programs that tests run and that no Python package brings: `make test` installs them where it may."""

import os
import shutil
import sys
from pathlib import Path

import pytest


def left_out(reason: str) -> None:
    """Skip the test, or fail it in CI, where everything is to be there."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def program(*names: str, package: str) -> str:
    """Where a program is; without it the test is left out.

    Args:
        names: of the program, the first that is found.
        package: what brings it.
    """
    for name in names:
        # The environment's own programs need not be on the PATH.
        beside = Path(sys.executable).with_name(name)
        found = str(beside) if beside.exists() else shutil.which(name)
        if found is not None:
            return found
    left_out(f"{names[0]} is missing: install {package}")
    raise AssertionError
