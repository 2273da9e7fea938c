"""What the gate can refuse by itself, it refuses with a status, before a stream with pictures begins."""

import json
from typing import Any

import httpx
import pytest

from tests.fake_vllm import FakeVllm
from tests.whole_service import Gate, image_part

QUESTION = {"type": "text", "text": "What digit is shown?"}
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": [image_part("seven.png"), QUESTION]}]}
HALF = {"type": "text", "text": "\ud800"}

#: The change to `CHAT`, the status, and the field that the error names, where it names one.
REFUSED: list[tuple[dict[str, Any], int, str | None]] = [
    ({"temperature": "@1e999"}, 400, None),
    ({"stop": ["\ud800"]}, 400, "stop"),
    ({"logit_bias": {"5": "@-1e999"}}, 400, None),
    ({"messages": [{"role": "user", "content": [image_part("seven.png"), HALF]}]}, 400, "messages"),
    ({"kv_transfer_params": {"a": 1}}, 422, "kv_transfer_params"),
    ({"n": 1000}, 422, "n"),
    ({"top_logprobs": 1000}, 422, "top_logprobs"),
    ({"structured_outputs": 5}, 400, "structured_outputs"),
    ({"chat_template_kwargs": {"chat_template": "x"}}, 422, "chat_template_kwargs.chat_template"),
    ({"truncate_prompt_tokens": 5}, 400, "truncate_prompt_tokens"),
    ({"model": "another"}, 404, "model"),
    ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, 422, "messages.0.content.0"),
    ({"messages": [{"role": "user", "content": [image_part("seven.png")] * 9}]}, 413, None),
    ({"smoothing": {"n_certify": 1}}, 422, "smoothing.n_certify"),
    ({"smoothing": {"mode": "off"}}, 422, "smoothing.mode"),
    ({"smoothing": {"certify": "answer"}, "n": 2}, 422, "n"),
    ({"smoothing": {"certify": "answer", "answer": {"choices": ["7"]}}}, 422, "smoothing.answer.choices"),
]


def _ask(gate: Gate, change: dict[str, Any], *, stream: bool) -> httpx.Response:
    text = json.dumps(CHAT | change | {"stream": stream})
    for number in ("1e999", "-1e999"):
        text = text.replace(f'"@{number}"', number)
    headers = {"Content-Type": "application/json"}
    return gate.http.post("/v1/chat/completions", content=text, headers=headers)


@pytest.mark.parametrize(("change", "status", "param"), REFUSED, ids=lambda value: str(value)[:50])
def test_a_stream_with_pictures_is_refused_as_a_whole_answer_is(
    quick_gate: Gate, vllm: FakeVllm, change: dict[str, Any], status: int, param: str | None
) -> None:
    before = quick_gate.metric("smoothgate_samples_total")
    whole, stream = (_ask(quick_gate, change, stream=stream) for stream in (False, True))
    assert (stream.status_code, stream.json()) == (whole.status_code, whole.json())
    assert stream.status_code == status, stream.text
    if param is not None:
        assert stream.json()["error"]["param"] == param
    assert vllm.bodies == []
    assert quick_gate.metric("smoothgate_samples_total") == before, "nothing was sampled in vain"
