"""What the clients under test are given: where the service is, and what they ask it."""

from typing import Any

import pytest

from tests.whole_service import FEW, Gate, image_part

MODEL = "smoothgate-demo"
EXTRA = {"smoothing": FEW}
#: Extra fields that have the answer itself certified, and the radius in which it is to hold.
RADIUS = 0.5
ANSWER = {"smoothing": {"certify": "answer", "sigma": 0.5, "target": {"eps": RADIUS}}}
# The demo model, taught no JSON, would fill it with white space without end: these are the tokens for it.
NO_SPACE = {"203": -100, "204": -100, "207": -100, "226": -100}


def user(text: str, *names: str) -> dict[str, Any]:
    """A message with pictures, in OpenAI's form."""
    return {"role": "user", "content": [*map(image_part, names), {"type": "text", "text": text}]}


@pytest.fixture
def base_url(shared_gate: Gate) -> str:
    """Of the service, ready; it may know the pictures from a test before."""
    shared_gate.wait_ready()
    return f"{shared_gate.url}/v1"
