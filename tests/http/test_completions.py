"""Certificates in the chunks of `/v1/chat/completions`."""

import json
from typing import Any

import pytest

from smoothgate.http import sse
from tests.fake_vllm import TEXT
from tests.quick_gate import OpenGate
from tests.sse_data import sse_data
from tests.whole_service import Gate, image_part

QUESTION: dict[str, Any] = {
    "messages": [
        {"role": "user", "content": [image_part("seven.png"), {"type": "text", "text": "What digit?"}]}
    ],
    "stream": True,
    "stream_options": {"include_usage": True},
}


def _chunks(gate: Gate, **fields: Any) -> list[dict[str, Any]]:
    response = gate.http.post("/v1/chat/completions", json=QUESTION | fields)
    lines = sse_data(response.text.splitlines())
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def _text(chunks: list[dict[str, Any]]) -> str:
    return "".join(c["delta"].get("content", "") for chunk in chunks for c in chunk["choices"])


def test_the_chunk_that_ends_an_answer_waits_for_the_certificates(quick_gate: Gate) -> None:
    chunks = _chunks(quick_gate, smoothing={"n_certify": 400})
    assert _text(chunks) == TEXT
    *_, ending, figures = chunks
    assert ending["choices"][0]["finish_reason"] == "stop"
    assert len(ending["certificates"]) == 1
    assert figures["usage"]["completion_tokens"] > 0
    assert [chunk for chunk in chunks if "certificates" in chunk] == [ending]


def test_certificates_name_the_answer_and_so_come_with_its_end(open_gate: OpenGate) -> None:
    """Also where an enforced policy needs them before vLLM is asked."""
    gate = open_gate(policy="enforce", policy_cosine=0.5, policy_eps=0.05)
    chunks = _chunks(gate)
    assert _text(chunks) == TEXT
    (last,) = [number for number, chunk in enumerate(chunks) if "certificates" in chunk]
    assert all(not _text([chunk]) for chunk in chunks[last + 1 :])
    assert last > 0


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_to_text_alone_is_vllms_own(quick_gate: Gate, stream: bool) -> None:
    hello = [{"role": "user", "content": "Hello"}]
    response = quick_gate.http.post("/v1/chat/completions", json={"messages": hello, "stream": stream})
    assert response.status_code == 200
    assert "certificates" not in response.text
    assert "chatcmpl-fake" in response.text


def test_a_stream_begins_while_its_samples_are_drawn_and_is_never_silent_for_long(
    open_gate: OpenGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Case stream_silence: https://github.com/vllm-project/vllm/issues/47647"""
    monkeypatch.setattr(sse, "SILENCE_SECONDS", 0.2)
    gate = open_gate()
    body = QUESTION | {"smoothing": {"n_select": 1500, "n_certify": 64}}
    with gate.http.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200
        assert gate.smoother.sampler.queued_samples > 0
        lines = [line for line in response.iter_lines() if line]
    first = next(number for number, line in enumerate(lines) if line.startswith("data: "))
    assert first > 0
    assert all(line.startswith(":") for line in lines[:first])
    assert lines[-1] == "data: [DONE]"
    assert _text([json.loads(data) for data in sse_data(lines)[:-1]]) == TEXT
    # What a client that strips each read makes of a silence is one comment.
    assert lines[first - 1] == ":"
    assert set(lines[: first - 1]) == {": still working"}
