"""What vLLM does with a parameter it does through the gate: each request is sent to both."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conformance.conftest import MODEL
from tests.sse_data import sse_data
from tests.whole_service import Gate

pytestmark = pytest.mark.engine

ROUTE = "/v1/chat/completions"
Json = dict[str, Any]

HELLO: Json = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Hello"}],
    "temperature": 0,
    "max_tokens": 32,
    "ignore_eos": True,
}
SCHEMA = {"type": "object", "properties": {"digit": {"enum": [7, 8]}}, "required": ["digit"]}
TOOLS = [{"type": "function", "function": {"name": "digit", "parameters": SCHEMA}}]


def _say(content: Any, role: str = "user") -> Json:
    return {"messages": [{"role": role, "content": content}]}


def _part(kind: str, key: str) -> Json:
    return _say([{"type": "text", "text": "What"}, {"type": kind, key: "digit?"}], "narrator")


# What shows in the answer.
SEEN: dict[str, Json] = {
    "n": {"n": 2, "temperature": 2.0, "seed": 3},
    "seed": {"temperature": 2.0, "seed": 7},
    "top_p, top_k, min_p": {"temperature": 2.0, "seed": 7, "top_p": 0.9, "top_k": 50, "min_p": 0.001},
    "stop": {"stop": "picture"},
    "a list of stops": {"stop": ["handwritten", "of"]},
    "a stop kept": {"stop": ["of"], "include_stop_str_in_output": True},
    "stop_token_ids": {"stop_token_ids": [310]},
    "max_tokens": {"max_tokens": 3},
    "max_completion_tokens": {"max_completion_tokens": 3},
    "eos": {"ignore_eos": False},
    "min_tokens": {"ignore_eos": False, "min_tokens": 20},
    "logprobs": {"logprobs": True},
    "top_logprobs": {"logprobs": True, "top_logprobs": 3},
    "logprob_token_ids": {"logprobs": True, "logprob_token_ids": [20, 30]},
    "prompt_logprobs": {"prompt_logprobs": 1, "stream": False},
    "tokens": {"return_token_ids": True, "return_prompt_text": True},
    "tokens as ids": {"logprobs": True, "return_tokens_as_token_ids": True},
    "include_usage": {"stream": True, "stream_options": {"include_usage": True}},
    "usage in each chunk": {
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    },
    "json_object": {"response_format": {"type": "json_object"}},
    "json_schema": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    },
    "choice": {"structured_outputs": {"choice": ["seven", "eight"]}},
    "regex": {"structured_outputs": {"regex": "[0-9]{3}"}},
    "grammar": {"structured_outputs": {"grammar": 'root ::= "a" | "b"'}},
    "logit_bias": {"logit_bias": {"100": 100}},
    "bad_words": {"bad_words": ["Hello"]},
    "allowed_token_ids": {"allowed_token_ids": [20, 21]},
    "frequency_penalty": {"frequency_penalty": 2.0},
    "presence_penalty": {"presence_penalty": 2.0},
    "repetition_penalty": {"repetition_penalty": 3.0},
    "beam search": {"use_beam_search": True, "n": 2, "stream": False},
    "skip_special_tokens": {"skip_special_tokens": False},
    "no generation prompt": {"add_generation_prompt": False},
    "echo": {
        "stream": False,
        "echo": True,
        "add_generation_prompt": False,
        "continue_final_message": True,
        "messages": [*HELLO["messages"], {"role": "assistant", "content": "Hello! Send"}],
    },
    "truncated": {"truncate_prompt_tokens": 2, **_say("What digit is shown?")},
    "a system prompt": {"messages": [{"role": "system", "content": "Be brief."}, *HELLO["messages"]]},
    "a developer's prompt": {"messages": [{"role": "developer", "content": "Be brief."}, *HELLO["messages"]]},
    "a tool's answer": {
        "messages": [
            *HELLO["messages"],
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "digit", "arguments": "{}"}}
                ],
            },
            {"role": "tool", "tool_call_id": "1", "content": "7"},
        ]
    },
    "reasoning": {
        "messages": [
            *HELLO["messages"],
            {"role": "assistant", "content": "Hi", "reasoning_content": "Hm."},
            *HELLO["messages"],
        ]
    },
    "a role of one's own": _say("Hello", "narrator"),
    "no content": {"messages": [{"role": "user"}]},
    "letters": _say("h\u00e9llo \u2028 \u65e5\u672c \U0001f389 \x00"),
    "text parts": _say([{"type": "text", "text": "Hello"}, {"type": "text", "text": "you"}]),
    "a part with more": _say([{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]),
    "input_text": _part("input_text", "text"),
    "output_text": _part("output_text", "text"),
    "a refusal": _part("refusal", "refusal"),
    "thinking": _part("thinking", "thinking"),
    "tool_reference": _part("tool_reference", "name"),
}

# What vLLM takes without a sign of it in this answer.
UNSEEN: dict[str, Json] = {
    "no model": {"model": None},
    "an empty model": {"model": ""},
    "OpenAI's own": {"user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"},
    "modalities": {"modalities": ["text"], "prediction": {"type": "content", "content": "x"}},
    "tools": {"tools": TOOLS, "tool_choice": "none", "parallel_tool_calls": False},
    "text": {"response_format": {"type": "text"}},
    "reasoning_effort": {"reasoning_effort": "low"},
    "chat_template_kwargs": {"chat_template_kwargs": {"x": 1}},
    "nulls": {"stop": None, "seed": None, "n": None, "logprobs": None, "tools": None},
    "a number as a string": {"temperature": "0"},
    "stream is null": {"stream": None},
    "stream is 0": {"stream": 0},
    "stream is 1": {"stream": 1},
    "stream is a false string": {"stream": "false"},
    "stream is a true string": {"stream": "true"},
}

REFUSED: dict[str, Json] = {
    "n when greedy": {"n": 2},
    "n zero": {"n": 0},
    "n no number": {"n": "two"},
    "temperature negative": {"temperature": -1},
    "temperature no number": {"temperature": "hot"},
    "top_p": {"top_p": 2},
    "top_k": {"top_k": -5},
    "seed no number": {"seed": "x"},
    "seed too large": {"seed": 2**70},
    "stop no string": {"stop": 5},
    "too many stops": {"stop": ["a"] * 20},
    "max_tokens zero": {"max_tokens": 0},
    "max_tokens too large": {"max_tokens": 10**6},
    "a prompt too long": _say("picture " * 2400),
    "logprobs no boolean": {"logprobs": "maybe"},
    "top_logprobs alone": {"top_logprobs": 2},
    "prompt_logprobs in a stream": {"prompt_logprobs": 1, "stream": True},
    "stream_options without a stream": {"stream_options": {"include_usage": True}, "stream": False},
    "penalty": {"frequency_penalty": 5},
    "logit_bias no token": {"logit_bias": {"x": 1}},
    "logit_bias outside": {"logit_bias": {"100000": 1}},
    "response_format": {"response_format": {"type": "yaml"}},
    "json_schema without one": {"response_format": {"type": "json_schema"}},
    "two constraints": {"structured_outputs": {"choice": ["a"], "regex": "b"}},
    "a broken regex": {"structured_outputs": {"regex": "("}},
    "tools, auto": {"tools": TOOLS, "tool_choice": "auto"},
    "tools, by default": {"tools": TOOLS},
    "tools, required": {"tools": TOOLS, "tool_choice": "required"},
    "tools, one named": {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "digit"}}},
    "tools, none such": {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "nope"}}},
    "tools, none": {"tools": []},
    "tools no list": {"tools": "x"},
    "tool_choice alone": {"tool_choice": "auto"},
    "thinking_token_budget": {"thinking_token_budget": 3},
    "no role": {"messages": [{"content": "Hello"}]},
    "content null": _say(None),
    "input_text of a user": _say([{"type": "input_text", "text": "Hello"}]),
}

# What the gate must refuse in its own words: it never comes to vLLM.
REFUSED_BY_THE_GATE: dict[str, Json] = {
    "a string as a part": _say(["Hello"]),
    "stream no boolean": {"stream": "perhaps"},
    "stream a number": {"stream": 2},
    "stream a list": {"stream": []},
    "no finite number": {"temperature": 1e400},
    "half a letter": _say("a\ud83d"),
    "no messages": {"messages": []},
    "messages null": {"messages": None},
    "messages no list": {"messages": "Hello"},
    "a message no object": {"messages": ["Hello"]},
    "content a number": _say(5),
    "content an object": _say({"type": "text", "text": "Hello"}),
    "a part without a type": _say([{"text": "Hello"}]),
    "a part without its text": _say([{"type": "text", "text": None}]),
}


# What the gate keeps from vLLM: `tests/http/test_engine_fields.py` has the rest of the kind.
KEPT_FROM_VLLM: dict[str, Json] = {
    "unknown fields": {"frobnicate": 1},
    "functions": {"functions": [{"name": "x"}]},
    "priority": {"priority": 3},
    "cache_salt": {"cache_salt": "s"},
    "vllm_xargs": {"vllm_xargs": {"a": 1}},
    "chat_template": {"chat_template": "x"},
    "mm_processor_kwargs": {"mm_processor_kwargs": {"a": 1}},
    "top_logprobs": {"logprobs": True, "top_logprobs": 100},
}


def cases(table: dict[str, Json]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("fields", table.values(), ids=table.keys())


whole_and_streamed = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@pytest.fixture(scope="module")
def vllm(demo_vllm: str) -> Iterator[httpx.Client]:
    """vLLM itself."""
    with httpx.Client(base_url=demo_vllm, timeout=120) as client:
        yield client


def _ask(client: httpx.Client, body: Json) -> tuple[int, Json]:
    """Status and answer, of a stream all chunks as one."""
    response = client.post(ROUTE, content=json.dumps(body), headers={"Content-Type": "application/json"})
    if not response.headers["content-type"].startswith("text/event-stream"):
        return response.status_code, response.json()
    events = sse_data(response.text.split("\n"))
    chunks = [json.loads(event) for event in events if event != "[DONE]"]
    assert "error" in chunks[-1] or events[-1] == "[DONE]"
    return response.status_code, _joined(chunks)


def _joined(chunks: list[Json]) -> Json:
    """vLLM puts as many tokens into a chunk as there are when it comes to send it."""
    whole: Json = {"choices": {}}
    for chunk in chunks:
        whole |= {key: value for key, value in chunk.items() if key != "choices" and value is not None}
        for choice in chunk.get("choices", ()):
            joined = whole["choices"].setdefault(choice["index"], {})
            for key, value in (choice | choice.pop("delta")).items():
                value = value["content"] if key == "logprobs" and value else value
                if isinstance(value, str | list) and key in joined:
                    joined[key] += value
                elif value is not None:
                    joined[key] = value
    return whole


def _lasting(value: Any) -> Any:
    """Without what differs from request to request, and as exactly as sums in another order agree."""
    if isinstance(value, dict):
        volatile = {"id", "created", "system_fingerprint"}
        return {key: _lasting(item) for key, item in value.items() if key not in volatile}
    if isinstance(value, list):
        return [_lasting(item) for item in value]
    return round(value, 3) if isinstance(value, float) else value


def _both(gate: Gate, vllm: httpx.Client, body: Json) -> Json:
    status, theirs = _ask(vllm, body)
    assert status == 200, theirs
    assert "error" not in theirs
    ours = _ask(gate.http, body)
    assert (ours[0], _lasting(ours[1])) == (200, _lasting(theirs))
    return theirs


@whole_and_streamed
@cases(SEEN)
def test_what_shows(gate: Gate, vllm: httpx.Client, fields: Json, stream: bool) -> None:
    body = HELLO | {"stream": stream} | fields
    theirs = _both(gate, vllm, body)
    if not stream:  # where there is always the usage to tell by
        assert _lasting(theirs) != _lasting(_ask(vllm, HELLO | {"stream": body["stream"]})[1])


@whole_and_streamed
@cases(UNSEEN)
def test_what_does_not_show(gate: Gate, vllm: httpx.Client, fields: Json, stream: bool) -> None:
    _both(gate, vllm, HELLO | {"stream": stream} | fields)


@whole_and_streamed
@cases(REFUSED)
def test_refused(gate: Gate, vllm: httpx.Client, fields: Json, stream: bool) -> None:
    body = HELLO | {"stream": stream} | fields
    # In a stream vLLM finds some faults only after its 200, and tells of them in a frame.
    status, theirs = _ask(vllm, body)
    assert theirs["error"]["code"] == 400
    assert status == 400 or body["stream"]
    ours = _ask(gate.http, body)
    assert ours[0] == status
    error = ours[1]["error"]
    named = (theirs["error"]["param"] or "").removeprefix("body.").partition(".")[0]
    assert (error["param"] or "").startswith(named)
    assert not any(word in error["message"] for word in ("ChatCompletion", "validation error"))
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_request")


@cases(REFUSED_BY_THE_GATE)
def test_refused_by_the_gate(gate: Gate, vllm: httpx.Client, fields: Json) -> None:
    """What vLLM refuses too."""
    assert _ask(vllm, HELLO | fields)[0] == 400
    status, answer = _ask(gate.http, HELLO | fields)
    assert status == 400
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert answer["error"]["type"] == "invalid_request_error"


@cases(KEPT_FROM_VLLM)
def test_kept_from_vllm(gate: Gate, fields: Json) -> None:
    status, answer = _ask(gate.http, HELLO | fields)
    assert status == 422
    assert answer["error"]["param"] == list(fields)[-1]


def test_an_unknown_model(gate: Gate, vllm: httpx.Client) -> None:
    for client in (gate.http, vllm):
        status, answer = _ask(client, HELLO | {"model": "gpt-5"})
        assert (status, answer["error"]["param"]) == (404, "model")


def test_the_list_of_models_has_what_vllm_s_has(gate: Gate, vllm: httpx.Client) -> None:
    (ours,), (theirs,) = (client.get("/v1/models").json()["data"] for client in (gate.http, vllm))
    assert {key: ours[key] for key in ("id", "object")} == {key: theirs[key] for key in ("id", "object")}
    of_anthropic = {"type", "display_name", "created_at"}
    assert ours.keys() - of_anthropic <= theirs.keys()
