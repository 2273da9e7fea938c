"""OpenAI's Responses, asked by its own SDK, over the same flow as chats."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from smoothgate.schemas import IssuedCertificate
from smoothgate.verification import answered
from tests.fake_vllm import TEXT, FakeVllm
from tests.quick_gate import OpenGate
from tests.whole_service import Gate, data_uri

SEVEN: dict[str, Any] = {"type": "input_image", "image_url": data_uri("seven.png"), "detail": "auto"}
QUESTION: dict[str, Any] = {
    "role": "user",
    "content": [SEVEN, {"type": "input_text", "text": "What digit is shown?"}],
}
TOOL: dict[str, Any] = {
    "type": "function",
    "name": "look_up",
    "description": "Looks a digit up.",
    "parameters": {"type": "object", "properties": {"digit": {"type": "integer"}}},
    "strict": True,
}


@pytest.fixture
def client(quick_gate: Gate) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{quick_gate.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def _ask(client: openai.OpenAI, **fields: Any) -> Any:
    return client.responses.create(**{"model": "smoothgate-demo", "input": [QUESTION]} | fields)


def test_whole(client: openai.OpenAI) -> None:
    answer = _ask(client, temperature=0, metadata={"of": "mine"})
    assert answer.output_text == TEXT
    assert (answer.status, answer.model, answer.metadata) == ("completed", "smoothgate-demo", {"of": "mine"})
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (40, 6)
    (certificate,) = answer.certificates
    assert IssuedCertificate.model_validate(certificate).image.sha256
    assert answered(json.dumps(answer.to_dict())) == [TEXT]


def test_streamed(client: openai.OpenAI) -> None:
    events = list(_ask(client, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == TEXT
    assert len(deltas) > 1
    assert [event.type for event in events if event.type != "response.output_text.delta"] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    whole = events[-1].response
    assert whole.output_text == TEXT
    assert whole.usage.total_tokens == 46
    assert len(whole.certificates) == 1


def test_the_helper_for_streams(client: openai.OpenAI) -> None:
    with client.responses.stream(model="smoothgate-demo", input=[QUESTION]) as stream:
        kinds = [event.type for event in stream]
        whole: Any = stream.get_final_response()
    assert kinds[-1] == "response.completed"
    assert whole.output_text == TEXT
    assert len(whole.certificates) == 1


def test_what_vllm_is_asked(client: openai.OpenAI, vllm: FakeVllm) -> None:
    form = {"type": "json_schema", "name": "digit", "schema": {"type": "object"}, "strict": True}
    _ask(
        client,
        instructions="Be brief.",
        input=[
            {"role": "developer", "content": "Answer in English."},
            {"role": "user", "content": "Look seven up."},
            {"type": "function_call", "call_id": "c1", "name": "look_up", "arguments": "{}"},
            {
                "type": "function_call_output",
                "call_id": "c1",
                "output": [{"type": "input_text", "text": "It is:"}, SEVEN],
            },
        ],
        max_output_tokens=7,
        text={"format": form},
        tools=[TOOL],
        tool_choice={"type": "function", "name": "look_up"},
        reasoning={"effort": "low"},
        include=["message.output_text.logprobs"],
        top_logprobs=2,
        extra_body={"top_k": 3},
    )
    (body,) = vllm.bodies
    *before, shown = body["messages"]
    call = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
    assert before == [
        {"role": "system", "content": "Be brief."},
        {"role": "system", "content": "Answer in English."},
        {"role": "user", "content": "Look seven up."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "It is:"},
    ]
    assert shown["role"] == "user"
    assert [part["type"] for part in shown["content"]] == ["image_embeds"]
    assert body["max_completion_tokens"] == 7
    assert body["response_format"]["json_schema"] == {
        "name": "digit",
        "schema": {"type": "object"},
        "strict": True,
    }
    (tool,) = body["tools"]
    assert tool["function"] == {name: TOOL[name] for name in ("name", "description", "parameters", "strict")}
    assert body["tool_choice"] == {"type": "function", "function": {"name": "look_up"}}
    assert (body["reasoning_effort"], body["logprobs"], body["top_logprobs"]) == ("low", True, 2)
    assert body["top_k"] == 3


@pytest.mark.parametrize("stream", [False, True])
def test_calls_of_functions(client: openai.OpenAI, vllm: FakeVllm, stream: bool) -> None:
    vllm.calls = [("look_up", '{"digit": 7}'), ("look_up", '{"digit": 8}')]
    answer = _ask(client, tools=[TOOL], stream=stream)
    if stream:
        events = list(answer)
        answer = events[-1].response
        done = [e.arguments for e in events if e.type == "response.function_call_arguments.done"]
        assert done == ['{"digit": 7}', '{"digit": 8}']
    message, *calls = answer.output
    assert message.content[0].text == TEXT
    assert [(call.type, call.call_id, call.arguments) for call in calls] == [
        ("function_call", "call-0", '{"digit": 7}'),
        ("function_call", "call-1", '{"digit": 8}'),
    ]
    # What came back is taken as input again.
    vllm.calls = []
    assert _ask(client, input=[QUESTION, *answer.output, QUESTION], tools=[TOOL]).output_text == TEXT


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"background": True}, "background"),
        ({"store": True}, "store"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice.type"),
        ({"include": ["file_search_call.results"]}, "include.0"),
        ({"truncation": "auto"}, "truncation"),
        ({"input": [{"type": "item_reference", "id": "m"}]}, "input.0.type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
            "input.0.content.0.type",
        ),
        ({"input": [{"role": "user", "content": [SEVEN | {"file_id": "f"}]}]}, "input.0.content.0.file_id"),
        ({"extra_body": {"n": 2}}, "n"),
        ({"extra_body": {"kv_transfer_params": {}}}, "kv_transfer_params"),
    ],
)
def test_what_is_not_served_is_refused_by_name(
    client: openai.OpenAI, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        _ask(client, **fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input.0.role"),
        ({"input": [{"role": "user", "content": 5}]}, "input.0.content"),
        ({"input": ["x"]}, "input.0"),
        ({"tools": {"a": 1}}, "tools"),
        ({"smoothing": {"sigma": "x"}}, "smoothing.sigma"),
        ({"stream": 5}, "stream"),
    ],
)
def test_a_body_that_is_malformed(quick_gate: Gate, fields: dict[str, Any], param: str) -> None:
    answer = quick_gate.http.post("/v1/responses", json={"input": [QUESTION]} | fields)
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}
    assert answer.json()["error"]["param"] == param


def test_an_error_of_the_flow_names_the_field_that_was_sent(
    client: openai.OpenAI, open_gate: OpenGate
) -> None:
    broken = {"type": "input_image", "image_url": "data:image/png;base64,aGVsbG8="}
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        _ask(client, instructions="Look.", input=[QUESTION, {"role": "user", "content": [broken]}])
    assert caught.value.param == "input.1.content.0"
    gate = open_gate(max_tokens=5)
    answer = gate.http.post("/v1/responses", json={"input": "Hello", "max_output_tokens": 9})
    assert answer.json()["error"]["param"] == "max_output_tokens"
    assert answer.json()["error"]["message"] == "max_output_tokens may be at most 5 here."


def test_a_stream_that_breaks_off_raises(client: openai.OpenAI, vllm: FakeVllm) -> None:
    vllm.fault = "cut off"
    with pytest.raises(openai.APIError, match="broke off"):
        list(_ask(client, stream=True))
