"""Packages of npm that tests need: installed once for each version, as pytest's cache lasts."""

import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

from tests.programs import program


def run(*command: str | Path, cwd: Path) -> None:
    """A command that must succeed."""
    ended = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def install(manifest: Path, cache: pytest.Cache | None) -> Path:
    """The folder in which the packages of a `package.json` are; without Node the test is left out."""
    assert cache is not None
    for name in ("node", "npm"):
        program(name, package="the Debian packages nodejs and npm")
    folder = cache.mkdir("node") / sha256(manifest.read_bytes()).hexdigest()[:16]
    folder.mkdir(exist_ok=True)
    if not (folder / "installed").exists():
        shutil.copy(manifest, folder)
        run("npm", "install", "--ignore-scripts", "--no-package-lock", "--no-audit", "--no-fund", cwd=folder)
        (folder / "installed").touch()
    return folder
