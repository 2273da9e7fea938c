from typing import Any

import pytest

from smoothgate.engine import neutralise, neutralise_messages
from smoothgate.engine.placeholders import TEXT_KEYS

IMAGE = ["<image>"]


def test_placeholders_are_broken_in_every_string() -> None:
    value = {"a<image>": ["<image>x<image>", {"b": "<<image>image>"}, 3, None, True]}
    clean = neutralise(value, IMAGE)
    assert "<image>" not in str(clean)
    assert ascii(clean).replace("\\u200b", "") == ascii(value)
    assert neutralise("text < image >", IMAGE) == "text < image >"


def stripped(messages: list[dict[str, Any]]) -> str:
    """The prompt of a template that strips parts and writes them one after the other."""
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
def test_a_placeholder_split_over_parts_is_broken(contents: list[Any]) -> None:
    messages = [{"role": "user", "content": content} for content in contents]
    assert "<image>" in stripped(messages)
    clean = neutralise_messages(messages, IMAGE)
    assert "<image>" not in stripped(clean)
    assert "".join(stripped(clean).replace("\u200b", "").split()) == stripped(messages)


def test_messages_without_placeholders_do_not_change() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "a < b"},
        {"role": "user", "content": [text("image"), {"type": "image"}, text(">")]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "x"}]},
    ]
    assert neutralise_messages(messages, IMAGE) == messages
