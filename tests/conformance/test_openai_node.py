"""OpenAI's own SDK for Node against the service: `node/client.mjs` asks and checks."""

import json
import shutil
from pathlib import Path

import pytest

from tests.conformance.conftest import MODEL
from tests.node import install, run
from tests.whole_service import FEW, SAMPLES

pytestmark = pytest.mark.engine

SOURCES = Path(__file__).parent / "node"


def test_openai_node(base_url: str, pytestconfig: pytest.Config) -> None:
    folder = install(SOURCES / "package.json", pytestconfig.cache)
    shutil.copy(SOURCES / "client.mjs", folder)
    picture = SAMPLES / "seven.png"
    run("node", "client.mjs", base_url, MODEL, picture, json.dumps(FEW), cwd=folder)
