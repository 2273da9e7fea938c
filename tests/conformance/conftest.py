"""What the clients under test are given: where the service is, and what they ask it."""

from typing import Any

import pytest

from tests.gate import FEW, Gate, image_part

MODEL = "smoothgate-demo"
EXTRA = {"smoothing": FEW}


def user(text: str, *names: str) -> dict[str, Any]:
    """A message with pictures, in OpenAI's form."""
    return {"role": "user", "content": [*map(image_part, names), {"type": "text", "text": text}]}


@pytest.fixture
def base_url(gate: Gate) -> str:
    return f"{gate.url}/v1"
