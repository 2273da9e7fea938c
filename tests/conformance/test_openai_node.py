"""OpenAI's own SDK for Node against the service: `node/client.mjs` asks and checks."""

import json
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

from tests.conformance.conftest import MODEL
from tests.gate import FEW, SAMPLES

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(
        not (shutil.which("node") and shutil.which("npm")),
        reason="needs node and npm (Debian, Ubuntu: apt-get install nodejs npm)",
    ),
]

SOURCES = Path(__file__).parent / "node"


def _run(*command: str | Path, cwd: Path) -> None:
    ended = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.fixture
def folder(pytestconfig: pytest.Config) -> Path:
    """Where the SDK is installed: once for each version, as pytest's cache lasts."""
    manifest = SOURCES / "package.json"
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir("node") / sha256(manifest.read_bytes()).hexdigest()[:16]
    folder.mkdir(exist_ok=True)
    if not (folder / "installed").exists():
        shutil.copy(manifest, folder)
        _run("npm", "install", "--ignore-scripts", "--no-package-lock", "--no-audit", "--no-fund", cwd=folder)
        (folder / "installed").touch()
    return folder


def test_openai_node(base_url: str, folder: Path) -> None:
    shutil.copy(SOURCES / "client.mjs", folder)
    picture = SAMPLES / "seven.png"
    _run("node", "client.mjs", base_url, MODEL, picture, json.dumps(FEW), cwd=folder)
