"""Our visual tokens against vLLM's own image path: same checkpoint, same process, same picture.

The tower is SigLIP. tests/families does the same through the service with the towers of all families, which
is why this one is long: it starts a vLLM of its own.
"""

import base64
import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from smoothgate.vision import VisionAdapter, decode, load

pytestmark = [pytest.mark.engine, pytest.mark.long]

SIZES = [(32, 32), (31, 57), (64, 64), (200, 133), (11, 80), (480, 640)]


def png(height: int, width: int, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def as_pixels(data: bytes) -> dict[str, Any]:
    return {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64," + base64.b64encode(data).decode()},
    }


def as_tokens(adapter: VisionAdapter, data: bytes) -> dict[str, Any]:
    x = adapter.canvas_native(decode(data, max_pixels=10**6))
    buffer = io.BytesIO()
    with torch.no_grad():
        torch.save(adapter.tokens(x[None])[0].clone(), buffer)
    return {"type": "image_embeds", "image_embeds": base64.b64encode(buffer.getvalue()).decode()}


def ask(client: httpx.Client, parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The greedy answer to a question about `parts`: per token its text and its five best candidates."""
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": [*parts, {"type": "text", "text": "What is shown?"}]}],
        "temperature": 0,
        "max_tokens": 12,
        "logprobs": True,
        "top_logprobs": 5,
        "ignore_eos": True,
    }
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    content: list[dict[str, Any]] = response.json()["choices"][0]["logprobs"]["content"]
    return content


def tokens(answer: list[dict[str, Any]]) -> list[str]:
    return [step["token"] for step in answer]


def best(answer: list[dict[str, Any]]) -> dict[str, float]:
    return {candidate["token"]: candidate["logprob"] for candidate in answer[0]["top_logprobs"]}


def assert_equal(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    assert len(theirs) == 12
    assert tokens(ours) == tokens(theirs)
    assert best(ours) == pytest.approx(best(theirs), abs=1e-4)


@pytest.fixture(scope="module")
def engine(native_engine: tuple[Path, httpx.Client]) -> tuple[VisionAdapter, httpx.Client]:
    path, client = native_engine
    return load(str(path), device="cpu", dtype=torch.float32), client


def test_one_image(engine: tuple[VisionAdapter, httpx.Client]) -> None:
    adapter, client = engine
    answers = []
    for seed, (height, width) in enumerate(SIZES):
        data = png(height, width, seed)
        theirs = ask(client, [as_pixels(data)])
        assert_equal(ask(client, [as_tokens(adapter, data)]), theirs)
        answers.append(theirs)
    # Equality means nothing unless the answer depends on the picture.
    assert len({tuple(tokens(answer)) for answer in answers}) == len(SIZES)
    assert len({max(best(answer).values()) for answer in answers}) == len(SIZES)


def test_two_images_in_their_order(engine: tuple[VisionAdapter, httpx.Client]) -> None:
    adapter, client = engine
    first, second = png(40, 50, seed=100), png(90, 30, seed=101)
    theirs = ask(client, [as_pixels(first), as_pixels(second)])
    assert_equal(ask(client, [as_tokens(adapter, first), as_tokens(adapter, second)]), theirs)
    swapped = ask(client, [as_tokens(adapter, second), as_tokens(adapter, first)])
    assert best(swapped) != pytest.approx(best(theirs), abs=1e-2)
