"""Anthropic's Messages, asked by its own SDK, over the same flow as chats."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest

from smoothgate.gate import accounts
from smoothgate.schemas import IssuedCertificate
from smoothgate.verification import answered
from tests.fake_vllm import TEXT, FakeVllm
from tests.quick_gate import OpenGate
from tests.whole_service import Gate, data_uri

SEVEN: dict[str, Any] = {
    "type": "image",
    "source": {
        "type": "base64",
        "media_type": "image/png",
        "data": data_uri("seven.png").partition(",")[2],
    },
}
QUESTION: dict[str, Any] = {
    "role": "user",
    "content": [SEVEN, {"type": "text", "text": "What digit is shown?"}],
}
TOOL: dict[str, Any] = {
    "name": "look_up",
    "description": "Looks a digit up.",
    "input_schema": {"type": "object", "properties": {"digit": {"type": "integer"}}},
}


@pytest.fixture
def client(quick_gate: Gate) -> Iterator[anthropic.Anthropic]:
    with _client(quick_gate) as client:
        yield client


def _client(gate: Gate, key: str = "unused") -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=gate.url, api_key=key, max_retries=0)


def _ask(client: anthropic.Anthropic, **fields: Any) -> Any:
    given: dict[str, Any] = {"model": "smoothgate-demo", "messages": [QUESTION], "max_tokens": 40}
    return client.messages.create(**given | fields)


def test_whole(client: anthropic.Anthropic) -> None:
    answer = _ask(client, extra_body={"temperature": 0})
    assert [block.text for block in answer.content] == [TEXT]
    assert (answer.stop_reason, answer.model, answer.role) == ("end_turn", "smoothgate-demo", "assistant")
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (40, 6)
    (certificate,) = answer.certificates
    assert IssuedCertificate.model_validate(certificate).image.sha256
    assert answer.id == f"msg_{answer._request_id}"
    assert answered(json.dumps(answer.to_dict())) == [TEXT]


def test_streamed(client: anthropic.Anthropic) -> None:
    events = list(_ask(client, stream=True))
    deltas = [event.delta.text for event in events if event.type == "content_block_delta"]
    assert "".join(deltas) == TEXT
    assert len(deltas) > 1
    assert [event.type for event in events if event.type != "content_block_delta"] == [
        "message_start",
        "content_block_start",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    end = events[-2]
    assert end.delta.stop_reason == "end_turn"
    assert (end.usage.input_tokens, end.usage.output_tokens) == (40, 6)
    assert len(end.certificates) == 1


def test_the_helper_for_streams(client: anthropic.Anthropic) -> None:
    messages: Any = [QUESTION]
    with client.messages.stream(model="smoothgate-demo", messages=messages, max_tokens=40) as stream:
        assert "".join(stream.text_stream) == TEXT
        whole = stream.get_final_message()
    assert whole.stop_reason == "end_turn"
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (40, 6)


def test_what_vllm_is_asked(client: anthropic.Anthropic, vllm: FakeVllm) -> None:
    call = {"type": "tool_use", "id": "c1", "name": "look_up", "input": {"digit": 7}}
    result = {
        "type": "tool_result",
        "tool_use_id": "c1",
        "content": [{"type": "text", "text": "It is:"}, SEVEN],
    }
    _ask(
        client,
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        messages=[
            {"role": "user", "content": "Look seven up."},
            {"role": "assistant", "content": [{"type": "text", "text": "I look."}, call]},
            {"role": "user", "content": [result, {"type": "text", "text": "And?"}]},
        ],
        stop_sequences=["###"],
        extra_body={"top_k": 3},
        tools=[TOOL],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        output_config={"format": {"type": "json_schema", "schema": {"type": "object"}}, "effort": "low"},
        metadata={"user_id": "u"},
        thinking={"type": "disabled"},
    )
    (body,) = vllm.bodies
    *before, shown = body["messages"]
    called = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"digit": 7}'}}
    said = [{"type": "text", "text": "I look."}]
    assert before == [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": "Look seven up."},
        {"role": "assistant", "content": said, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "c1", "content": "It is:"},
    ]
    assert shown["role"] == "user"
    assert [part["type"] for part in shown["content"]] == ["image_embeds", "text"]
    assert (body["max_tokens"], body["stop"], body["top_k"]) == (40, ["###"], 3)
    (tool,) = body["tools"]
    assert tool["function"] == {
        "name": "look_up",
        "description": "Looks a digit up.",
        "parameters": TOOL["input_schema"],
    }
    assert (body["tool_choice"], body["parallel_tool_calls"]) == ("required", False)
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert body["reasoning_effort"] == "low"
    assert "metadata" not in body


@pytest.mark.parametrize("stream", [False, True])
def test_calls_of_tools(client: anthropic.Anthropic, vllm: FakeVllm, stream: bool) -> None:
    vllm.calls = [("look_up", '{"digit": 7}'), ("look_up", '{"digit": 8}')]
    if stream:
        messages: Any = [QUESTION]
        tools: Any = [TOOL]
        options = {"model": "smoothgate-demo", "max_tokens": 40}
        with client.messages.stream(messages=messages, tools=tools, **options) as events:
            answer: Any = events.get_final_message()
    else:
        answer = _ask(client, tools=[TOOL])
    text, *calls = answer.content
    assert text.text == TEXT
    assert [(call.type, call.id, call.input) for call in calls] == [
        ("tool_use", "call-0", {"digit": 7}),
        ("tool_use", "call-1", {"digit": 8}),
    ]
    assert answer.stop_reason == "tool_use"


def test_a_stop_sequence(client: anthropic.Anthropic, vllm: FakeVllm) -> None:
    vllm.stop = "###"
    answer = _ask(client, stop_sequences=["###"])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "###")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "thinking"),
        ({"extra_body": {"mcp_servers": [{}]}}, "mcp_servers"),
        ({"extra_body": {"n": 2}}, "n"),
        ({"extra_body": {"kv_transfer_params": {}}}, "kv_transfer_params"),
        (
            {"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]},
            "messages.0.content.0.type",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [SEVEN | {"source": {"type": "file", "file_id": "f"}}]}
                ]
            },
            "messages.0.content.0.source.type",
        ),
    ],
)
def test_what_is_not_served_is_refused_by_name(
    client: anthropic.Anthropic, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(anthropic.UnprocessableEntityError) as caught:
        _ask(client, **fields)
    body: Any = caught.value.body
    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"
    assert body["error"]["param"] == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages.0.content.0.source"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"smoothing": {"sigma": "x"}}, "smoothing.sigma"),
    ],
)
def test_a_body_that_is_malformed(quick_gate: Gate, fields: dict[str, Any], param: str) -> None:
    body = {"messages": [QUESTION], "max_tokens": 5} | fields
    answer = quick_gate.http.post("/v1/messages", json=body)
    assert answer.status_code == 400
    assert answer.json()["type"] == "error"
    assert answer.json()["error"]["param"] == param


def test_an_error_of_the_flow_names_the_field_that_was_sent(client: anthropic.Anthropic) -> None:
    broken = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGVsbG8="}}
    with pytest.raises(anthropic.UnprocessableEntityError) as caught:
        _ask(client, system="Look.", messages=[QUESTION, {"role": "user", "content": [broken]}])
    body: Any = caught.value.body
    assert body["error"]["param"] == "messages.1.content.0"
    with pytest.raises(anthropic.NotFoundError):
        _ask(client, model="claude")


def test_a_stream_that_breaks_off_raises(client: anthropic.Anthropic, vllm: FakeVllm) -> None:
    vllm.fault = "cut off"
    with pytest.raises(anthropic.APIStatusError, match="broke off"):
        list(_ask(client, stream=True))


def test_the_key_in_anthropics_header(open_gate: OpenGate, tmp_path: Path) -> None:
    account, key = accounts.new("alice", requests_per_minute=None, samples_per_minute=None)
    accounts.save(tmp_path / "accounts.json", [account])
    gate = open_gate(accounts=tmp_path / "accounts.json")
    with _client(gate, key) as client:
        assert _ask(client).content[0].text == TEXT
    with _client(gate, "wrong") as client, pytest.raises(anthropic.AuthenticationError) as caught:
        _ask(client)
    body: Any = caught.value.body
    assert body["error"]["type"] == "authentication_error"
