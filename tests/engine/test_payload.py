import base64
import io
from typing import Any

import pytest
import torch

from smoothgate.engine import image_parts, neutralise, neutralise_messages
from smoothgate.engine.payload import TEXT_KEYS
from smoothgate.errors import SmoothgateError
from smoothgate.vision import Prompt

IMAGE = ["<image>"]


def part(tokens: torch.Tensor, dtype: torch.dtype = torch.float32) -> dict[str, str]:
    (part,) = image_parts(tokens, Prompt("image_embeds", (4,)), hidden_size=3, dtype=dtype)
    return part


def test_what_goes_over_is_the_tensor_and_no_more() -> None:
    batch = torch.randn(1000, 4, 3, requires_grad=True)
    content = part(batch[7])
    assert content["type"] == "image_embeds"
    data = base64.b64decode(content["image_embeds"], validate=True)
    assert len(data) < 4000
    loaded = torch.load(io.BytesIO(data), weights_only=True)
    assert torch.equal(loaded, batch[7])
    assert not loaded.requires_grad


def test_tokens_go_over_in_the_engine_s_arithmetic() -> None:
    content = part(torch.randn(3, 4).T, torch.bfloat16)
    loaded = torch.load(io.BytesIO(base64.b64decode(content["image_embeds"])), weights_only=True)
    assert loaded.dtype is torch.bfloat16
    assert loaded.is_contiguous()


@pytest.mark.parametrize(
    ("tokens", "dtype", "message"),
    [
        (torch.zeros(5, 3), torch.float32, "shape"),
        (torch.zeros(4, 2), torch.float32, "shape"),
        (torch.zeros(1, 4, 3), torch.float32, "shape"),
        (torch.zeros(4, 3, dtype=torch.int64), torch.float32, "floating point"),
        (torch.full((4, 3), torch.nan), torch.float32, "finite"),
        (torch.full((4, 3), torch.inf), torch.float32, "finite"),
        (torch.full((4, 3), 1e6), torch.float16, "finite"),
    ],
)
def test_what_vllm_would_take_silently_or_die_of_is_not_sent(
    tokens: torch.Tensor, dtype: torch.dtype, message: str
) -> None:
    with pytest.raises(SmoothgateError, match=message) as failure:
        part(tokens, dtype)
    assert failure.value.status == 500


def test_placeholders_are_broken_wherever_they_are() -> None:
    value = {"a<image>": ["<image>x<image>", {"b": "<<image>image>"}, 3, None, True]}
    clean = neutralise(value, IMAGE)
    assert "<image>" not in str(clean)
    assert ascii(clean).replace("\\u200b", "") == ascii(value)
    assert neutralise("text < image >", IMAGE) == "text < image >"


def stripped(messages: list[dict[str, Any]]) -> str:
    """As a template that strips parts and writes them one behind the other."""
    texts = []
    for message in messages:
        content = message["content"]
        for part in [content] if isinstance(content, str) else content:
            text = part if isinstance(part, str) else part.get(TEXT_KEYS.get(part["type"]), "")
            texts.append(text.strip())
    return "".join(texts)


def text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


@pytest.mark.parametrize(
    "contents",
    [
        [[text("<image>")]],
        [[text("<ima"), text("ge>")]],
        [[text("<"), text("image"), text(">")]],
        [[text("<ima "), {"type": "image"}, text("\n ge>")]],
        [[text("<ima"), text(" "), text(""), text("ge>")]],
        ["<ima", "ge>"],
        ["<ima", [text("ge><im")], "age>"],
        [[text(character) for character in "<image>"]],
        [["<ima", text("ge>")]],
        [[text("<ima"), "ge>"]],
        *([[text("<ima"), {"type": kind, key: "ge>"}]] for kind, key in TEXT_KEYS.items()),
        *([[{"type": kind, key: "<ima"}, text("ge>")]] for kind, key in TEXT_KEYS.items()),
        [[text("<ima") | {"refusal": "x"}, {"type": "refusal", "refusal": "ge>", "text": "x"}]],
    ],
)
def test_a_placeholder_cut_up_is_broken_too(contents: list[Any]) -> None:
    messages = [{"role": "user", "content": content} for content in contents]
    assert "<image>" in stripped(messages)
    clean = neutralise_messages(messages, IMAGE)
    assert "<image>" not in stripped(clean)
    assert "".join(stripped(clean).replace("\u200b", "").split()) == stripped(messages)


def test_other_messages_stay_as_they_are() -> None:
    messages = [
        {"role": "system", "content": "a < b"},
        {"role": "user", "content": [text("image"), {"type": "image"}, text(">")]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "x"}]},
    ]
    assert neutralise_messages(messages, IMAGE) == messages
