"""Of a chat request vLLM gets the fields of a list, within limits; any other is refused by name."""

import re
from pathlib import Path
from typing import Any

import pytest

from smoothgate.gate.engine_fields import LEFT_OUT, OPENAI, VLLM
from tests.fake_vllm import FakeVllm
from tests.quick_gate import OpenGate
from tests.whole_service import Gate

Json = dict[str, Any]

HELLO: Json = {"messages": [{"role": "user", "content": "Hello"}]}
DOCS = Path(__file__).parents[2] / "docs" / "operations.md"


def _refused(gate: Gate, fields: Json, param: str, code: str) -> None:
    response = gate.http.post("/v1/chat/completions", json=HELLO | fields)
    assert response.status_code == 422, response.text
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, code)
    assert param.partition(".")[0] in error["message"] or "template" in error["message"]


@pytest.mark.parametrize("name", ["chat_template_kwargs", "structured_outputs"])
@pytest.mark.parametrize("value", [5, "chat_template", ["chat_template"], True])
def test_a_field_that_is_looked_into_must_be_an_object(
    quick_gate: Gate, vllm: FakeVllm, name: str, value: Any
) -> None:
    """vLLM answers with status 500 to some of these, and closes the connection."""
    response = quick_gate.http.post("/v1/chat/completions", json=HELLO | {name: value})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, name)
    assert error["message"] == f"{name} must be an object."
    assert not vllm.bodies


@pytest.mark.parametrize(
    "fields",
    [
        {"kv_transfer_params": {"remote_host": "169.254.169.254", "remote_port": 1}},
        {"priority": -5},
        {"data_parallel_rank": 7},
        {"request_id": "mine"},
        {"session_id": "mine"},
        {"cache_salt": "guess"},
        {"vllm_xargs": {"a": 1}},
        {"chat_template": "x"},
        {"mm_processor_kwargs": {"a": 1}},
        {"media_io_kwargs": {"image": {}}},
        {"logits_processors": ["os.system"]},
        {"functions": [{"name": "x"}]},
        {"modalities": ["text", "audio"]},
        {"frobnicate": [1]},
        {"": 1},
    ],
    ids=lambda fields: next(iter(fields)) or "empty",
)
def test_a_field_that_is_not_listed_is_refused(quick_gate: Gate, vllm: FakeVllm, fields: Json) -> None:
    _refused(quick_gate, fields, next(iter(fields)), "unknown_field")
    assert not vllm.bodies


def test_a_chat_template_in_its_arguments_is_refused(quick_gate: Gate) -> None:
    fields = {"chat_template_kwargs": {"chat_template": "x"}}
    _refused(quick_gate, fields, "chat_template_kwargs.chat_template", "unknown_field")


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 17},
        {"n": "17"},
        {"n": 17.0},
        {"top_logprobs": 21},
        {"top_logprobs": -1},
        {"prompt_logprobs": 21},
        {"prompt_logprobs": -1},
        {"logprob_token_ids": list(range(21))},
    ],
    ids=str,
)
def test_a_number_above_its_limit_is_refused(quick_gate: Gate, vllm: FakeVllm, fields: Json) -> None:
    _refused(quick_gate, fields, next(iter(fields)), "out_of_range")
    assert not vllm.bodies


def test_the_length_of_answers_is_limited(open_gate: OpenGate, vllm: FakeVllm) -> None:
    gate = open_gate(max_tokens=30)
    for name in ("max_tokens", "max_completion_tokens"):
        _refused(gate, {name: 31}, name, "out_of_range")
    assert gate.ask("Hello", max_tokens=31).json()["error"]["param"] == "max_tokens"
    vllm.bodies.clear()
    for body in (HELLO, HELLO | {"max_tokens": None}, HELLO | {"max_tokens": 7}):
        assert gate.http.post("/v1/chat/completions", json=body).status_code == 200
    assert [body.get("max_completion_tokens") or body["max_tokens"] for body in vllm.bodies] == [30, 30, 7]


def test_vllm_gets_what_is_listed_and_nothing_that_is_left_out(quick_gate: Gate, vllm: FakeVllm) -> None:
    listed = {"temperature": 0.5, "n": 16, "top_logprobs": 20, "top_k": 5, "seed": None}
    left_out = {
        "user": "me",
        "store": False,
        "metadata": {"a": "b"},
        "modalities": ["text"],
        "frobnicate": None,
    }
    response = quick_gate.http.post("/v1/chat/completions", json=HELLO | listed | left_out)
    assert response.status_code == 200, response.text
    (body,) = vllm.bodies
    assert body == listed | {"messages": HELLO["messages"], "model": "smoothgate-demo", "stream": False}


def test_the_operator_adds_fields(open_gate: OpenGate, vllm: FakeVllm) -> None:
    gate = open_gate(engine_fields=["priority", "vllm_xargs"])
    assert gate.http.post("/v1/chat/completions", json=HELLO | {"priority": 3}).status_code == 200
    assert vllm.bodies[-1]["priority"] == 3
    _refused(gate, {"cache_salt": "s"}, "cache_salt", "unknown_field")


def test_the_documents_list_the_same_fields() -> None:
    section = DOCS.read_text().split("## What reaches vLLM")[1].split("## ")[0]
    rows = re.findall(r"^\| (OpenAI's|vLLM's|OpenAI's, taken[^|]*) \| (.*) \|$", section, re.MULTILINE)
    documented = [set(re.findall(r"`([a-z_]+)`", fields)) for _, fields in rows]
    assert documented == [OPENAI, VLLM | {"chat_template"}, LEFT_OUT | {"modalities"}]
