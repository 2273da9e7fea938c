"""OpenAI's own SDK for Node against the service: `node/client.mjs` asks and checks."""

import json
import shutil
from pathlib import Path

import pytest

from tests.conformance.conftest import ANSWER, MODEL
from tests.node import install, run
from tests.whole_service import FEW, SAMPLES

pytestmark = pytest.mark.engine

SOURCES = Path(__file__).parent / "node"


def test_openai_node(base_url: str, pytestconfig: pytest.Config) -> None:
    folder = install(SOURCES / "package.json", pytestconfig.cache)
    shutil.copy(SOURCES / "client.mjs", folder)
    picture = SAMPLES / "seven.png"
    smoothing = [json.dumps(options) for options in (FEW, ANSWER["smoothing"])]
    run("node", "client.mjs", base_url, MODEL, picture, *smoothing, cwd=folder)
